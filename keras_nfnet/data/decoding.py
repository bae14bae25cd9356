"""Image files to pixels, by Pillow. The twin of `graph_preprocessing.py`.

Both take a file apart in the same way, so that the two libraries decode the
same bytes: of a PNG the chunks that pixels are made of, of a GIF or WebP the
first frame.
"""

import io
import os
import struct
import zlib

import numpy as np

from keras_nfnet.utils.arguments import integer
from keras_nfnet.utils.arguments import path as check_path
from keras_nfnet.utils.types import Path

# What is decoded, then what is only told by name: a format and the bytes at
# places of the file's start by which it is known.
MARKS = (
    ("JPEG", ((0, b"\xff\xd8\xff"),)),
    ("PNG", ((0, b"\x89PNG\r\n\x1a\n"),)),
    ("GIF", ((0, b"GIF87a"),)),
    ("GIF", ((0, b"GIF89a"),)),
    ("WebP", ((0, b"RIFF"), (8, b"WEBP"))),
    ("BMP", ((0, b"BM"),)),
    ("TIFF", ((0, b"II*\0"),)),
    ("TIFF", ((0, b"MM\0*"),)),
    ("HEIC, AVIF or a video", ((4, b"ftyp"),)),
    ("JPEG XL", ((0, b"\xff\x0a"),)),
    ("JPEG XL", ((4, b"JXL "),)),
    ("JPEG 2000", ((4, b"jP  "),)),
    ("Photoshop", ((0, b"8BPS"),)),
    ("PDF", ((0, b"%PDF"),)),
    ("SVG or HTML", ((0, b"<"),)),
)
DECODED = ("JPEG", "PNG", "GIF", "WebP", "BMP")
UNKNOWN = "no format that is known"
EXPECTED = "An image must be a JPEG, PNG, WebP, GIF or uncompressed BMP file"

MOST_SCANS = 100
# How a scan of one to four components begins. Two bytes alone come by chance
# in what lies behind an image, such as a video.
SCAN = b"\xff\xda"
SCANS = tuple(SCAN + bytes((0, 6 + 2 * n, n)) for n in (1, 2, 3, 4))
# libwebp's limit, and the one that Pillow has for WebP.
LONGEST_WEBP = 16383
MOST_WEBP_PIXELS = 2 * (2**30 // 12)
# Parts of a GIF or WebP before its first frame.
MOST_PARTS = 1000
BMP_HEADERS = (40, 52, 56, 64, 108, 124)
BMP_BITS = (1, 4, 8, 24, 32)

_DEFAULT_MAX_PIXELS = 100_000_000
_max_pixels = _DEFAULT_MAX_PIXELS


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
    if kind not in DECODED:
        raise ValueError(f"{EXPECTED}. Received: {name}, which is {kind}")
    try:
        return _DECODERS[kind](encoded)
    except Exception as error:  # Pillow's decoders raise many types.
        is_cut = isinstance(error, IndexError | struct.error)
        why = "it is cut short" if is_cut else error
        raise ValueError(
            f"{EXPECTED}, whole and of at most {_max_pixels:,} pixels "
            "(`keras_nfnet.data.set_max_pixels`). Received: "
            f"{name}, a {kind} file: {why}"
        ) from error


def _format(encoded):
    for name, marks in MARKS:
        if all(encoded[at : at + len(mark)] == mark for at, mark in marks):
            return name
    return UNKNOWN


def _jpeg(encoded):
    from PIL.JpegImagePlugin import JpegImageFile

    scans = encoded.count(SCAN)
    if scans > MOST_SCANS and sum(map(encoded.count, SCANS)) > MOST_SCANS:
        raise ValueError(f"it has more than {MOST_SCANS} scans")
    image = JpegImageFile(io.BytesIO(encoded))
    _check_size(image.size)
    if image.mode != "CMYK":
        return np.array(image.convert("RGB"))
    pixels = np.array(image)  # Pillow inverts, as Adobe writes it.
    if "adobe" in image.info:
        pixels = 255 - pixels
    # As TensorFlow: the inks multiply.
    pixels = pixels.astype(np.uint16)
    return (pixels[..., :3] * pixels[..., 3:] // 255).astype(np.uint8)


def _png(encoded):
    from PIL.PngImagePlugin import PngImageFile

    size = struct.unpack_from(">II", encoded, 16)
    _check_size(size)
    # Without the chunks that pixels do not need: texts and color profiles
    # can expand or be broken, and other frames follow.
    parts, place, kind = [encoded[:8]], 8, None
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", encoded, place)
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            chunk = encoded[place : place + 12 + length]
            # Pillow does not look at that of the pixels.
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise ValueError(f"its chunk {kind!r} is damaged")
            parts.append(chunk)
        elif not kind[0] & 32:
            raise ValueError(f"it has a chunk {kind!r}, which is not known")
        place += 12 + length
    image = PngImageFile(io.BytesIO(b"".join(parts)))
    _check_same(image.size, size)
    if image.mode.startswith("I"):  # Gray of 16 bits.
        gray = np.clip(np.asarray(image), 0, 65535) >> 8
        return np.stack([gray.astype(np.uint8)] * 3, axis=-1)
    return np.array(image.convert("RGB"))


def _gif(encoded):
    from PIL.GifImagePlugin import GifImageFile

    screen = struct.unpack_from("<HH", encoded, 6)
    start = 13 + _table_bytes(encoded[10])
    place, control = start, b""
    for _ in range(MOST_PARTS):
        if encoded[place] == ord(","):
            break
        if encoded[place] != ord("!"):
            raise ValueError("it has a block that is not known")
        end = _end_of_blocks(encoded, place + 2)
        if encoded[place + 1 : place + 3] == b"\xf9\4":
            control = encoded[place:end]
        place = end
    else:
        raise ValueError("it has too many blocks before its first frame")
    left, top, *size = struct.unpack_from("<HHHH", encoded, place + 1)
    packed = encoded[place + 9]
    table = place + 10, _table_bytes(packed)
    end = _end_of_blocks(encoded, sum(table) + 1)
    canvas = [
        max(whole, first + side)
        for whole, first, side in zip(screen, (left, top), size, strict=True)
    ]
    _check_size(canvas)
    _check_size(size)
    sides = struct.pack("<HH", *size)
    image = GifImageFile(
        io.BytesIO(
            encoded[:6]
            + sides
            + encoded[10:start]
            + b",\0\0\0\0"
            + sides
            + encoded[place + 9 : end]
            + b";"
        )
    )
    _check_same(image.size, size)
    indices = np.array(image)
    if not table[1]:
        table = 13, _table_bytes(encoded[10])
    colors = np.frombuffer(encoded, np.uint8, table[1], table[0])
    colors = colors.reshape(-1, 3).copy()
    if indices.max() >= len(colors):
        raise ValueError("it has pixels of a color that it does not define")
    if control and control[3] & 1 and control[6] < len(colors):
        colors[control[6]] = 0
    return _on_black(colors[indices], canvas, left, top)


def _table_bytes(packed):
    """Bytes of the table of colors that a GIF's flags announce."""
    return 3 * 2 ** ((packed & 7) + 1) if packed & 128 else 0


def _end_of_blocks(encoded, place):
    """The place behind a GIF's chain of blocks that begins at `place`."""
    while encoded[place]:
        place += 1 + encoded[place]
    return place + 1


def _webp(encoded):
    from PIL.WebPImagePlugin import WebPImageFile

    canvas, left, top, place, is_animated = None, 0, 0, 12, False
    for _ in range(MOST_PARTS):
        kind, length = struct.unpack_from("<4sI", encoded, place)
        if kind in (b"VP8 ", b"VP8L"):
            break
        place += 8
        if kind == b"VP8X":
            canvas = [1 + _three(encoded, place + i) for i in (4, 7)]
        if kind == b"ANMF":  # Whose first frame lies inside.
            left, top = (2 * _three(encoded, place + i) for i in (0, 3))
            is_animated = True
            place += 16
        else:
            place += length + length % 2
    else:
        raise ValueError("it has too many chunks before its first frame")
    if kind == b"VP8 ":
        size = [
            n & 0x3FFF for n in struct.unpack_from("<HH", encoded, place + 14)
        ]
    else:
        (bits,) = struct.unpack_from("<I", encoded, place + 9)
        size = [1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)]
    canvas = canvas or size
    _check_size(size, MOST_WEBP_PIXELS)
    _check_size(canvas, MOST_WEBP_PIXELS)
    if max(canvas) > LONGEST_WEBP:
        raise ValueError(f"it has a side of more than {LONGEST_WEBP} pixels")
    if not is_animated and canvas != size:
        raise ValueError("its sizes differ")
    frame = encoded[place : place + 8 + length]
    if len(frame) != 8 + length:
        raise ValueError("it is cut short")
    frame += b"\0" * (length % 2)
    frame = b"RIFF" + struct.pack("<I", 4 + len(frame)) + b"WEBP" + frame
    image = WebPImageFile(io.BytesIO(frame))
    _check_same(image.size, size)
    return _on_black(np.array(image)[..., :3], canvas, left, top)


def _three(encoded, place):
    """An integer of three bytes."""
    low, high = struct.unpack_from("<HB", encoded, place)
    return low + 65536 * high


def _bmp(encoded):
    offset, header, width, height = struct.unpack_from("<IIii", encoded, 10)
    bits, compression = struct.unpack_from("<HI", encoded, 28)
    (used,) = struct.unpack_from("<I", encoded, 46)
    _check_size((width, abs(height)))
    if header not in BMP_HEADERS or bits not in BMP_BITS or compression:
        raise ValueError(
            f"it has a header of {header} bytes, {bits} bits and compression "
            f"{compression}"
        )
    row = (width * bits + 31) // 32 * 4
    if offset + abs(height) * row > len(encoded):
        raise ValueError("it is cut short")
    rows = np.frombuffer(encoded, np.uint8, abs(height) * row, offset)
    rows = rows.reshape(-1, row)[:: 1 if height < 0 else -1]
    if bits > 8:
        pixels = rows[:, : width * bits // 8].reshape(-1, width, bits // 8)
        return pixels[..., 2::-1].copy()
    count = used or 2**bits
    if count > 2**bits or 14 + header + 4 * count > offset:
        raise ValueError(f"it has {count} colors of {bits} bits")
    colors = np.zeros((2**bits, 4), np.uint8)
    colors[:count] = np.frombuffer(
        encoded, np.uint8, 4 * count, 14 + header
    ).reshape(-1, 4)
    shifts = np.arange(8 - bits, -1, -bits, np.uint8)
    indices = rows[..., None] >> shifts & (2**bits - 1)
    return colors[indices.reshape(len(rows), -1)[:, :width], 2::-1]


_DECODERS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WebP": _webp,
    "BMP": _bmp,
}


def _check_size(size, limit=None):
    width, height = size
    if width < 1 or height < 1:
        raise ValueError("it announces no pixels")
    limit = min(limit or _max_pixels, _max_pixels)
    if width * height > limit:
        raise ValueError(
            f"it announces {width} by {height} pixels, more than {limit:,}"
        )


def _check_same(size, announced):
    if tuple(size) != tuple(announced):
        raise ValueError(f"it announces {tuple(announced)} and has {size}")


def _on_black(frame, canvas, left, top):
    """A frame at its place on a canvas `(width, height)`."""
    height, width, _ = frame.shape
    if (width, height) == tuple(canvas):
        return frame
    if left + width > canvas[0] or top + height > canvas[1]:
        raise ValueError("its first frame leaves its canvas")
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
