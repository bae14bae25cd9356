"""Image files to pixels, by Pillow. The twin of `graph_preprocessing.py`.

Both read a file through `image_files.py`, so that the two libraries decode
the same bytes. Of a PNG Pillow is given the chunks that pixels are made of.
"""

import io
import os
import struct
import zlib

import numpy as np

from keras_nfnet.data import image_files
from keras_nfnet.utils.arguments import integer
from keras_nfnet.utils.arguments import path as check_path
from keras_nfnet.utils.types import Path

_max_pixels = 100_000_000


def max_pixels():
    """Most pixels that an image may have; see `set_max_pixels`."""
    return _max_pixels


def set_max_pixels(pixels: int) -> None:
    """Sets how many pixels an image file may announce to be decoded.

    A file whose header announces more is refused before it is decoded, since
    a file of a few kilobytes can ask for gigabytes. The limit holds for
    `decode_picture`, `predict`, calibration, and for pipelines and
    SavedModels that are made afterwards: these keep the limit that they were
    made with.

    Args:
        pixels: Positive integer, width times height. Initially 100 million.

    Raises:
        ValueError: If `pixels` is no positive integer.

    Example:

    >>> keras_nfnet.data.set_max_pixels(100_000_000)
    >>> keras.utils.save_img("black.png", np.zeros((8, 12, 3)), scale=False)
    >>> keras_nfnet.data.decode_picture("black.png").shape
    (8, 12, 3)
    """
    global _max_pixels
    _max_pixels = integer("pixels", pixels, most=2**31 - 1)


def decode_picture(source: Path | bytes) -> np.ndarray:
    """Decodes an image file.

    Training, prediction and the served `serve_bytes` decode the same pixels.

    - The formats are JPEG (gray and CMYK too), PNG (of any kind), WebP, GIF
      and uncompressed BMP of 1, 4, 8, 24 or 32 bits. Others, such as TIFF,
      are refused.
    - Of an animation only the first frame is decoded.
    - Transparency is dropped. The transparent color of a GIF, and what its
      or a WebP's first frame leaves free, is black.
    - Of 16 bits the high byte is taken.
    - EXIF orientation is not applied: an image that a camera stored turned
      stays turned.
    - An image whose header announces more than 100 million pixels is refused
      before it is decoded; `keras_nfnet.data.set_max_pixels` sets another
      limit. So are JPEGs of more than 100 scans and WebPs with a side of more
      than 16,383 pixels.

    Args:
        source: A path, or the encoded bytes.

    Returns:
        A `uint8` array `(height, width, 3)`, RGB 0–255.

    Raises:
        ValueError: If it is missing, a directory, empty or no such image.

    Example:

    >>> keras.utils.save_img("black.png", np.zeros((8, 12, 3)), scale=False)
    >>> keras_nfnet.data.decode_picture("black.png").shape
    (8, 12, 3)
    """
    if isinstance(source, bytes | bytearray | memoryview):
        name, encoded = "the given bytes", bytes(source)
    else:
        name, encoded = repr(str(source)), _read(source)
    if not encoded:
        raise ValueError(f"An image must not be empty. Received: {name}")
    kind = _format(encoded)
    if kind not in image_files.DECODED:
        raise ValueError(
            f"{image_files.EXPECTED}. Received: {name}, which is {kind}"
        )
    try:
        return _DECODERS[kind](_File(encoded))
    except Exception as error:  # Pillow's decoders raise many types.
        is_cut = isinstance(error, IndexError | struct.error)
        why = "it is cut short" if is_cut else error
        raise ValueError(
            f"{image_files.EXPECTED}, whole and of at most {_max_pixels:,} "
            "pixels (`keras_nfnet.data.set_max_pixels`). Received: "
            f"{name}, a {kind} file: {why}"
        ) from error


def _format(encoded):
    for name, marks in image_files.MARKS:
        if all(encoded[at : at + len(mark)] == mark for at, mark in marks):
            return name
    return image_files.UNKNOWN


class _File:
    """A reader for `image_files.py` of Python's numbers."""

    def __init__(self, encoded):
        self.encoded = encoded
        self.length = len(encoded)

    def part(self, position, count):
        """Bytes of the file, fewer where it ends."""
        return self.encoded[position : position + count]

    def number(self, position, count):
        """An integer of bytes, the highest last."""
        return int.from_bytes(self.part(position, count), "little")

    def where(self, condition, one, other):
        return one if condition else other

    def loop(self, goes_on, step, state):
        while goes_on(*state):
            state = step(*state)
        return state

    def four_bytes(self, number):
        return struct.pack("<I", number)

    def end_of_blocks(self, position):
        """The position after a GIF's chain of blocks that begins here.

        It is beyond the file's end if the chain is cut short.
        """
        while position < self.length and self.encoded[position]:
            position += 1 + self.encoded[position]
        return min(position, self.length) + 1

    def check(self, condition, why, *values):
        if not condition:
            raise ValueError(" ".join([why, *map(str, values)]))

    def check_size(self, size, limit=2**31):
        """Refuses a width and height that are announced."""
        width, height = size
        if width < 1 or height < 1:
            raise ValueError("it announces no pixels")
        limit = min(limit, _max_pixels)
        if width * height > limit:
            raise ValueError(
                f"it announces {width} by {height} pixels, more than {limit:,}"
            )


def _jpeg(file):
    from PIL.JpegImagePlugin import JpegImageFile

    count, most = file.encoded.count, image_files.MOST_SCANS
    if (
        count(image_files.SCAN) > most
        and sum(map(count, image_files.SCANS)) > most
    ):
        raise ValueError(f"it has more than {most} scans")
    image = JpegImageFile(io.BytesIO(file.encoded))
    file.check_size(image.size)
    if image.mode != "CMYK":
        return np.array(image.convert("RGB"))
    pixels = np.array(image)  # Pillow inverts, as Adobe writes it.
    if "adobe" in image.info:
        pixels = 255 - pixels
    # As TensorFlow: the inks multiply.
    pixels = pixels.astype(np.uint16)
    return (pixels[..., :3] * pixels[..., 3:] // 255).astype(np.uint8)


def _png(file):
    from PIL.PngImagePlugin import PngImageFile

    encoded = file.encoded
    size = struct.unpack_from(">II", encoded, 16)
    file.check_size(size)
    # Without the chunks that pixels do not need: texts and color profiles
    # can expand or be broken, and other frames follow.
    parts, position, kind = [encoded[:8]], 8, None
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", encoded, position)
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            chunk = encoded[position : position + 12 + length]
            # Pillow does not look at that of the pixels.
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise ValueError(f"its chunk {kind!r} is damaged")
            parts.append(chunk)
        elif not kind[0] & 32:
            raise ValueError(f"it has a chunk {kind!r}, which is not known")
        position += 12 + length
    image = PngImageFile(io.BytesIO(b"".join(parts)))
    _check_same(image.size, size)
    if image.mode.startswith("I"):  # Gray of 16 bits.
        gray = np.clip(np.asarray(image), 0, 65535) >> 8
        return np.stack([gray.astype(np.uint8)] * 3, axis=-1)
    return np.array(image.convert("RGB"))


def _gif(file):
    from PIL.GifImagePlugin import GifImageFile

    frame, control, table, canvas, size, first = image_files.gif(file)
    image = GifImageFile(io.BytesIO(b"".join(frame)))
    _check_same(image.size, size)
    indices = np.array(image)
    colors = np.frombuffer(file.part(*table), np.uint8).reshape(-1, 3).copy()
    if indices.max() >= len(colors):
        raise ValueError("it has pixels of a color that it does not define")
    transparent = file.number(control + 6, 1)
    is_used = control >= 0 and file.number(control + 3, 1) & 1
    if is_used and transparent < len(colors):
        colors[transparent] = 0
    return _on_black(colors[indices], canvas, *first)


def _webp(file):
    from PIL.WebPImagePlugin import WebPImageFile

    frame, canvas, size, first = image_files.webp(file)
    image = WebPImageFile(io.BytesIO(frame))
    _check_same(image.size, size)
    return _on_black(np.array(image)[..., :3], canvas, *first)


def _bmp(file):
    from PIL.BmpImagePlugin import BmpImageFile

    image_files.bmp(file)
    image = BmpImageFile(io.BytesIO(file.encoded))
    return np.array(image.convert("RGB"))


_DECODERS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WebP": _webp,
    "BMP": _bmp,
}


def _check_same(size, announced):
    if tuple(size) != tuple(announced):
        raise ValueError(f"it announces {tuple(announced)} and has {size}")


def _on_black(frame, canvas, left, top):
    """A frame at its position on a canvas `(width, height)`."""
    height, width, _ = frame.shape
    if (width, height) == tuple(canvas):
        return frame
    pixels = np.zeros((canvas[1], canvas[0], 3), np.uint8)
    pixels[top : top + height, left : left + width] = frame
    return pixels


def _read(path):
    check_path("source", path, "the path of an image file or its bytes")
    if os.path.isdir(path):
        raise ValueError(
            f"An image must be a file. Received: the directory {str(path)!r}"
        )
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(
            "An image must be a file that exists and can be read. "
            f"Received: {str(path)!r} ({error.strerror})"
        ) from error
