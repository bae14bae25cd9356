"""Tests of `keras_nfnet.data.decoding` and its TensorFlow twin."""

import io
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

import keras_nfnet
from keras_nfnet.data import decoding
from keras_nfnet.data.decoding import decode_picture, set_max_pixels


def encode(picture, file_format, **options):
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def photograph():
    return Image.fromarray(load_sample_image("china.jpg")).crop((0, 0, 201, 91))


def with_alpha():
    photo = photograph()
    alpha = Image.linear_gradient("L").resize(photo.size)
    return Image.merge("RGBA", [*photo.split(), alpha])


def bmp(bits, used=0, top_down=False, header=40):
    """A BMP file of random pixels, 13 by 7, and the pixels."""
    rng = np.random.default_rng(bits)
    colors = rng.integers(0, 256, (used or 2**bits, 4), "uint8")
    indices = rng.integers(0, len(colors), (7, 13), "uint8")
    each = np.unpackbits(indices[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(each.reshape(7, -1), axis=-1)
    rows = np.pad(rows, [(0, 0), (0, -rows.shape[1] % 4)])
    start = 14 + header + colors.size
    head = struct.pack(
        "<IiiHHIIiiII",
        *(header, 13, -7 if top_down else 7, 1, bits, 0, 0, 0, 0, used, 0),
    )
    data = head + bytes(header - 40) + colors.tobytes()
    data += rows[:: 1 if top_down else -1].tobytes()
    data = b"BM" + struct.pack("<III", 14 + len(data), 0, start) + data
    return data, colors[indices, 2::-1]


def moved_gif(screen):
    """A GIF whose frame lies right and down of its canvas's corner."""
    data = bytearray(encode(photograph().quantize(64), "GIF"))
    frame = data.index(b",\0\0\0\0")
    data[frame + 1 : frame + 5] = struct.pack("<HH", 9, 17)
    data[6:10] = struct.pack("<HH", *screen)
    return bytes(data)


def animated_webp(offset, canvas, first):
    """A WebP animation whose first frame does not fill its canvas."""

    def chunk(name, data):
        return (
            name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        )

    def three(number):
        return struct.pack("<I", number)[:3]

    still = encode(first, "WEBP", lossless=True)
    sides = (*(side - 1 for side in first.size), 100)
    frame = b"".join(three(n) for n in (*(n // 2 for n in offset), *sides))
    body = chunk(
        b"VP8X", b"\2\0\0\0" + b"".join(three(side - 1) for side in canvas)
    )
    body += chunk(b"ANIM", bytes(6)) + chunk(
        b"ANMF", frame + b"\0" + still[12:]
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def forms():
    """Image files by name."""
    photo, rgba = photograph(), with_alpha()
    gray, palette = photo.convert("L"), photo.quantize(16)
    one_bit = photo.convert("1")
    gray16 = Image.fromarray(np.asarray(gray).astype("uint16") * 257)
    turned = photo.rotate(180)
    cmyk = encode(photo.convert("CMYK"), "JPEG")
    adobe = cmyk.index(b"\xff\xee")
    after = adobe + 2 + int.from_bytes(cmyk[adobe + 2 : adobe + 4], "big")
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by a quarter.
    more = {"save_all": True, "append_images": [turned] * 3}
    more_alpha = {"save_all": True, "append_images": [rgba.rotate(180)]}
    indices = {"save_all": True, "append_images": [turned.quantize(8)] * 3}
    return {
        "jpeg": encode(photo, "JPEG", quality=95),
        "progressive jpeg": encode(photo, "JPEG", progressive=True),
        "jpeg without subsampling": encode(photo, "JPEG", subsampling=0),
        "rgb jpeg": encode(photo, "JPEG", keep_rgb=True),
        "gray jpeg": encode(gray, "JPEG"),
        "cmyk jpeg": cmyk,
        "cmyk jpeg not by adobe": cmyk[:adobe] + cmyk[after:],
        "jpeg to be turned": encode(photo, "JPEG", exif=exif),
        # Two pictures in one file, and a video behind a picture.
        "mpo": encode(photo, "MPO", **more),
        "jpeg before a video": encode(photo, "JPEG") + b"\xff\xda\0\0" * 500,
        "png": encode(photo, "PNG"),
        "gray png": encode(gray, "PNG"),
        "16-bit png": encode(gray16, "PNG"),
        "palette png": encode(palette, "PNG", transparency=3),
        "two-bit png": encode(photo.quantize(3), "PNG"),
        "one-bit png": encode(one_bit, "PNG"),
        "alpha png": encode(rgba, "PNG"),
        "gray alpha png": encode(rgba.convert("LA"), "PNG"),
        "png with a transparent color": encode(
            photo, "PNG", transparency=(0, 0, 0)
        ),
        "animated png": encode(photo, "PNG", **more),
        "png with a text bomb": png_with(
            b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))
        ),
        "webp": encode(photo, "WEBP"),
        "lossless webp": encode(photo, "WEBP", lossless=True),
        "alpha webp": encode(rgba, "WEBP"),
        "lossless alpha webp": encode(rgba, "WEBP", lossless=True, exact=True),
        "animated webp": encode(photo, "WEBP", **more),
        "animated lossless webp": encode(photo, "WEBP", lossless=True, **more),
        "animated alpha webp": encode(rgba, "WEBP", **more_alpha),
        "webp with extras": encode(
            photo, "WEBP", exif=b"Exif\0\0MM", icc_profile=b"x" * 777
        ),
        "webp frame in a canvas": animated_webp((8, 6), (230, 107), photo),
        "gif": encode(palette, "GIF"),
        "gray gif": encode(gray, "GIF"),
        "one-bit gif": encode(one_bit, "GIF"),
        "transparent gif": encode(palette, "GIF", transparency=2),
        "gif not interlaced": encode(palette, "GIF", interlace=0),
        "animated gif": encode(palette, "GIF", comment=b"c" * 3000, **indices),
        "gif frame in a canvas": moved_gif((230, 120)),
        "gif frame that leaves its canvas": moved_gif((20, 20)),
        "bmp": encode(photo, "BMP"),
        "palette bmp": encode(palette, "BMP"),
        "gray bmp": encode(gray, "BMP"),
        "one-bit bmp": encode(one_bit, "BMP"),
        "32-bit bmp": encode(rgba, "BMP"),
        "four-bit bmp": bmp(4)[0],
        "four-bit bmp of five colors": bmp(4, 5)[0],
        "top-down bmp of a long header": bmp(8, 200, True, 124)[0],
    }


def png_with(kind, content):
    """A PNG with one more chunk behind its header."""
    png = encode(photograph(), "PNG")
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + chunk + png[33:]


def refused_forms():
    """Files that are refused, and the word that tells why."""
    photo = photograph()
    gray = encode(photo.convert("L"), "BMP")
    webp = encode(photo, "WEBP")
    gif = encode(photo.quantize(4), "GIF")
    png = encode(photo, "PNG")
    jpeg = encode(photo, "JPEG", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    return {
        "tiff": (encode(photo, "TIFF"), "TIFF"),
        "avif": (encode(photo, "AVIF"), "AVIF"),
        "jpeg 2000": (encode(photo, "JPEG2000"), "JPEG 2000"),
        "icon": (encode(photo, "ICO"), "no format that is known"),
        "text": (b"no picture", "no format that is known"),
        "svg": (b"<svg/>", "SVG"),
        "compressed bmp": (gray[:30] + b"\1" + gray[31:], "BMP"),
        "16-bit bmp": (gray[:28] + b"\x10" + gray[29:], "BMP"),
        "old bmp": (gray[:14] + b"\x0c" + gray[15:], "BMP"),
        "bmp of too many colors": (gray[:46] + b"\1\1" + gray[48:], "BMP"),
        "jpeg of many scans": (
            jpeg[:scan] + jpeg[scan:-2] * 100 + jpeg[-2:],
            "JPEG.*100 scans",
        ),
        "gif of many blocks": (gif[:13] + b"!\xfe\1a\0" * 1001, "GIF"),
        "webp of many chunks": (webp[:12] + b"abcd\0\0\0\0" * 1001, "WebP"),
        "png of an unknown chunk": (png_with(b"ABCD", b""), "PNG"),
        # The checksum behind the pixels: Pillow does not look at it.
        "png of a damaged chunk": (png[:-13] + b"\0" + png[-12:], "PNG"),
        **{
            f"cut {name}": (content[: len(content) * 2 // 3], "cut|trunc")
            for name, content in {"gif": gif, "bmp": gray, "webp": webp}.items()
        },
    }


FORMS, REFUSED = forms(), refused_forms()


def by_graph(content):
    import tensorflow as tf

    from keras_nfnet.data.graph_preprocessing import decode

    return decode(tf.constant(content)).numpy()


def refusal(content):
    """The words of both refusals."""
    import tensorflow as tf

    with pytest.raises(ValueError) as one:
        decode_picture(content)
    with pytest.raises(tf.errors.InvalidArgumentError) as other:
        by_graph(content)
    return str(one.value), other.value.message


@pytest.fixture
def limit():
    yield set_max_pixels
    set_max_pixels(100_000_000)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_picture(name, tmp_path):
    content = FORMS[name]
    decoded = decode_picture(content)
    assert decoded.dtype == "uint8" and decoded.flags.writeable
    file = tmp_path / "picture"
    file.write_bytes(content)
    np.testing.assert_array_equal(decode_picture(file), decoded)
    photo = np.asarray(photograph()).astype(int)
    if "canvas" in name:
        top, left = (6, 8) if "webp" in name else (17, 9)
        assert decoded[:top].max() == 0 and decoded[:, :left].max() == 0
        height, width, _ = photo.shape
        decoded = decoded[top : top + height, left : left + width]
    if decoded.shape == photo.shape and "one-bit" not in name:
        gray = np.asarray(photograph().convert("L")).astype(int)[..., None]
        wanted = gray if "gray" in name or "16-bit" in name else photo
        # The colors of a palette are few.
        few = ("palette", "gif", "two-bit", "cmyk jpeg not")
        if not any(word in name for word in few):
            assert np.abs(decoded - wanted).mean() < 8, name
    if name in ("png", "bmp", "alpha png", "lossless webp", "32-bit bmp"):
        np.testing.assert_array_equal(decoded, photo)


def test_bmp_files_of_few_colors_are_their_colors():
    for options in [
        (1,),
        (4,),
        (4, 5),
        (8,),
        (8, 200, True),
        (8, 3, True, 108),
    ]:
        content, pixels = bmp(*options)
        np.testing.assert_array_equal(decode_picture(content), pixels)


def test_the_transparent_color_of_a_gif_is_black():
    palette = photograph().quantize(16)
    decoded = decode_picture(encode(palette, "GIF", transparency=2))
    is_transparent = np.asarray(palette) == 2
    assert is_transparent.any() and not decoded[is_transparent].any()
    np.testing.assert_array_equal(
        decoded[~is_transparent],
        np.asarray(palette.convert("RGB"))[~is_transparent],
    )


def test_exif_orientation_is_not_applied():
    assert decode_picture(FORMS["jpeg to be turned"]).shape == (91, 201, 3)
    turned = ImageOps.exif_transpose(
        Image.open(io.BytesIO(FORMS["jpeg to be turned"]))
    )
    assert turned.size == (91, 201)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", FORMS)
def test_graph_and_pillow_decode_the_same_pixels(name):
    np.testing.assert_array_equal(
        by_graph(FORMS[name]), decode_picture(FORMS[name])
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", FORMS)
def test_a_crop_has_the_pixels_of_the_whole(name):
    import tensorflow as tf

    from keras_nfnet.data.graph_preprocessing import decode_crop

    crop = decode_crop(tf.constant(FORMS[name]), lambda _: [2, 3, 5, 7])
    whole = decode_picture(FORMS[name])
    np.testing.assert_array_equal(crop, whole[2:7, 3:10])


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse_the_same_forms_in_words_that_name_them(name):
    import re

    content, word = REFUSED[name]
    for words in refusal(content):
        assert re.search(word, words), words


@pytest.mark.tensorflow
@pytest.mark.parametrize("content", [b"", b"RIFF", b"BM", b"\xff\xd8\xff"])
def test_both_refuse_files_that_are_none(content):
    refusal(content)


@pytest.mark.tensorflow
def test_the_saved_signature_decodes_and_refuses_the_same(tmp_path):
    import tensorflow as tf

    from keras_nfnet.data.preprocessing import evaluation_picture

    config = keras_nfnet.NFNetConfig((16,), (1,), group_width=8)
    model = keras_nfnet.NFNet(config, weights=None, classes=3)
    keras_nfnet.export.to_saved_model(model, tmp_path / "1", size=32)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    serve = loaded.signatures["serve_bytes"]
    pixels = loaded.signatures["serving_default"]
    got = serve(image_bytes=tf.constant(list(FORMS.values())))
    views = [
        evaluation_picture(decode_picture(content), 32)
        for content in FORMS.values()
    ]
    np.testing.assert_allclose(
        got["probabilities"],
        pixels(images=tf.constant(np.stack(views)))["probabilities"],
        atol=1e-5,
    )
    for content, _ in REFUSED.values():
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(image_bytes=tf.constant([content]))


def announces(width, height):
    """Headers that announce a size; the rest is of a small picture."""
    photo = photograph()
    little, big = (
        struct.pack("<HH", width, height),
        struct.pack(">II", width, height),
    )
    png = bytearray(encode(photo, "PNG"))
    png[16:24] = big
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    jpeg = bytearray(encode(photo, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    gif = bytearray(encode(photo.quantize(8), "GIF"))
    frame = gif.index(b",\0\0\0\0")
    screen = bytes(gif[:6]) + little + bytes(gif[10:])
    gif[frame + 5 : frame + 9] = little
    webp = bytearray(encode(photo, "WEBP"))
    webp[26:30] = little
    image = bytearray(encode(photo, "BMP"))
    image[18:26] = struct.pack("<ii", width, height)
    return {
        "PNG": bytes(png),
        "JPEG": bytes(jpeg),
        "GIF": bytes(gif),
        "GIF of a large screen": screen,
        "WebP": bytes(webp),
        "WebP of a large canvas": animated_webp((0, 0), (width, height), photo),
        "BMP": bytes(image),
    }


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", announces(9, 9))
def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(
    kind, monkeypatch
):
    from PIL import ImageFile

    content = announces(16_000, 16_000)[kind]
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    for words in refusal(content):
        assert "announces" in words and kind.split()[0] in words
        assert "set_max_pixels" in words


@pytest.mark.tensorflow
def test_the_limit_is_set_for_what_is_made_afterwards(limit, tmp_path):
    import tensorflow as tf

    from keras_nfnet.data.graph_preprocessing import decode

    content = FORMS["png"]
    made_before = tf.function(decode)
    made_before(tf.constant(content))
    limit(201 * 91)
    decode_picture(content)
    by_graph(content)
    limit(201 * 91 - 1)
    for words in refusal(content):
        assert "18,290 pixels" in words
    made_before(tf.constant(content))


@pytest.mark.parametrize("pixels", [0, -1, True, 1.5, "9", None, 2**31])
def test_the_limit_must_be_a_positive_integer(pixels):
    with pytest.raises(ValueError, match="`pixels`.*Received: pixels="):
        set_max_pixels(pixels)
    assert decoding.max_pixels() == 100_000_000


def test_pillows_own_limit_does_not_count(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    # WebP has Pillow's.
    for name in ("jpeg", "png", "gif", "bmp"):
        decode_picture(FORMS[name])


@pytest.mark.tensorflow
def test_a_chain_of_blocks_of_any_lengths_has_its_end(monkeypatch):
    import tensorflow as tf

    from keras_nfnet.data.graph_preprocessing import _File

    rng = np.random.default_rng(0)
    for longest in (1, 3, 255):
        lengths = rng.integers(1, longest, 40_000 // longest, endpoint=True)
        chain = b"".join(bytes([n]) + bytes(int(n)) for n in lengths) + b"\0"
        for before, after in ((b"", b""), (b"abc", b"\5\6" * 30_000)):
            content = tf.constant(before + chain + after)
            found = _File("GIF", content, 1).end_of_blocks(
                tf.constant(len(before), tf.int64)
            )
            assert found == len(before + chain)
        cut = _File("GIF", tf.constant(chain[:-1]), 1)
        found = cut.end_of_blocks(tf.constant(0, tf.int64))
        assert found > len(chain) - 1


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_refusal_names_the_file(content, tmp_path):
    file = tmp_path / "bad.jpg"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="bad.jpg"):
        decode_picture(file)


def test_what_is_cut_short_missing_or_no_file_is_refused(tmp_path):
    file = tmp_path / "cut.jpg"
    for name in ("jpeg", "png", "webp"):
        file.write_bytes(FORMS[name][: len(FORMS[name]) // 2])
        with pytest.raises(ValueError, match="cut.jpg"):
            decode_picture(file)
    with pytest.raises(ValueError, match="exists.*nothing.png"):
        decode_picture(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="directory.*" + tmp_path.name):
        decode_picture(str(tmp_path))
    with pytest.raises(ValueError, match="Received: source=3"):
        decode_picture(3)


def test_a_picture_that_may_not_be_read_is_refused(tmp_path):
    # Of a socket no user, not even root, may read.
    file = tmp_path / "socket.png"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(file))
        with pytest.raises(ValueError, match=r"can be read.*socket\.png"):
            decode_picture(file)
