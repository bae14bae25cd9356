"""GIF, WebP and BMP files taken apart: once for Pillow and for TensorFlow.

Each function takes a reader of one file, whose numbers are Python's in
`decoding.py` and tensors in `graph_preprocessing.py`. So both libraries are
given the same bytes. The first frame of a GIF or WebP is put into a file of
its own, without other frames and what stands beside it.
"""

# What is decoded, then what is only told by name: a format and the bytes
# at the file's start by which it is known.
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
_LONGEST_WEBP = 16383
_MOST_WEBP_PIXELS = 2 * (2**30 // 12)
# Parts of a GIF or WebP before its first frame.
_MOST_PARTS = 1000
_BMP_HEADERS = (40, 52, 56, 64, 108, 124)
_BMP_BITS = (1, 4, 8, 24, 32)


def gif(reader):
    """The first frame of a GIF file.

    Returns:
        The frame's file in two parts, between which a graphic control
        extension may stand; the position of that extension or -1; the
        position and size in bytes of the table of colors; `(width, height)`
        of the canvas and of the frame; and the frame's left and top.
    """
    part, number, where = reader.part, reader.number, reader.where

    def table_bytes(position):
        packed = number(position, 1)
        size = 3
        for bit in (1, 2, 4):
            size = size * where(packed & bit > 0, 2**bit, 1)
        return where(packed & 128 > 0, 2 * size, 0)

    def is_extension(position, control, count):
        return (part(position, 1) == b"!") & (count < _MOST_PARTS)

    def behind(position, control, count):
        is_control = part(position + 1, 2) == b"\xf9\4"
        end = reader.end_of_blocks(position + 2)
        return end, where(is_control, position, control), count + 1

    start = 13 + table_bytes(10)
    position, control, count = reader.loop(is_extension, behind, (start, -1, 0))
    left, top, *size = (number(position + at, 2) for at in (1, 3, 5, 7))
    table = position + 10, table_bytes(position + 9)
    end = reader.end_of_blocks(table[0] + table[1] + 1)
    reader.check(
        count < _MOST_PARTS, "it has too many blocks before its first frame"
    )
    is_frame = part(position, 1) == b","
    reader.check(
        is_frame | (position >= reader.length),
        "it has a block that is not known",
    )
    reader.check(end <= reader.length, "it is cut short")
    canvas = [
        where(whole > first + side, whole, first + side)
        for whole, first, side in zip(
            (number(6, 2), number(8, 2)), (left, top), size, strict=True
        )
    ]
    reader.check_size(canvas)
    reader.check_size(size)
    sides = part(position + 5, 4)
    head = part(0, 6) + sides + part(10, start - 10)
    frame = b",\0\0\0\0" + sides + part(position + 9, end - position - 9) + b";"
    table = [
        where(table[1] > 0, of_frame, of_file)
        for of_frame, of_file in zip(table, (13, start - 13), strict=True)
    ]
    return (head, frame), control, table, canvas, size, (left, top)


def webp(reader):
    """The first frame of a WebP file, without an alpha channel beside it.

    Returns:
        The frame's file; `(width, height)` of the canvas and of the frame;
        and the frame's left and top.
    """
    part, number, where = reader.part, reader.number, reader.where

    def is_other(position, canvas, first, is_animated, count):
        kind = part(position, 4)
        goes_on = (position + 8 <= reader.length) & (count < _MOST_PARTS)
        return (kind != b"VP8 ") & (kind != b"VP8L") & goes_on

    def behind(position, canvas, first, is_animated, count):
        is_canvas = part(position, 4) == b"VP8X"
        is_frame = part(position, 4) == b"ANMF"  # The first lies inside.
        size = number(position + 4, 4)
        announced = [1 + number(position + at, 3) for at in (12, 15)]
        offset = [2 * number(position + at, 3) for at in (8, 11)]
        return (
            position + 8 + where(is_frame, 16, size + size % 2),
            where(is_canvas, announced, canvas),
            where(is_frame, offset, first),
            is_animated | is_frame,
            count + 1,
        )

    position, canvas, first, is_animated, count = reader.loop(
        is_other, behind, (12, [0, 0], [0, 0], False, 0)
    )
    is_lossy = part(position, 4) == b"VP8 "
    bits, length = number(position + 9, 4), number(position + 4, 4)
    size = where(
        is_lossy,
        [number(position + at, 2) & 0x3FFF for at in (14, 16)],
        [1 + (bits & 0x3FFF), 1 + (bits // 2**14 & 0x3FFF)],
    )
    canvas = where(canvas[0] > 0, canvas, size)
    reader.check(
        count < _MOST_PARTS, "it has too many chunks before its first frame"
    )
    reader.check(
        (is_lossy | (part(position, 4) == b"VP8L"))
        & (position + 8 + length <= reader.length),
        "it is cut short",
    )
    for sides in (size, canvas):
        reader.check_size(sides, _MOST_WEBP_PIXELS)
    reader.check(
        (canvas[0] <= _LONGEST_WEBP) & (canvas[1] <= _LONGEST_WEBP),
        f"it has a side of more than {_LONGEST_WEBP} pixels",
    )
    reader.check(
        is_animated | ((canvas[0] == size[0]) & (canvas[1] == size[1])),
        "its sizes differ",
    )
    reader.check(
        (first[0] + size[0] <= canvas[0]) & (first[1] + size[1] <= canvas[1]),
        "its first frame leaves its canvas",
    )
    padding = length % 2
    bytes_of_file = reader.four_bytes(12 + length + padding)
    frame = b"RIFF" + bytes_of_file + b"WEBP" + part(position, 8 + length)
    frame += where(padding > 0, b"\0", b"")
    return frame, canvas, size, first


def bmp(reader):
    """The header of a BMP file.

    Returns:
        Position of the table of colors and how many there are, 0 if none;
        position of the pixels, bytes of a row and number of rows; width in
        pixels; bits of a pixel; and whether the first row is the top one.
    """
    number, where = reader.number, reader.where
    offset, header, width, height = (number(at, 4) for at in (10, 14, 18, 22))
    height = where(height < 2**31, height, height - 2**32)
    bits, compression, used = number(28, 2), number(30, 4), number(46, 4)
    rows, row = abs(height), (width * bits + 31) // 32 * 4
    reader.check_size((width, rows))
    is_known = compression == 0
    for value, known in ((header, _BMP_HEADERS), (bits, _BMP_BITS)):
        is_any = False
        for each in known:
            is_any = (value == each) | is_any
        is_known = is_known & is_any
    reader.check(
        is_known,
        "it is compressed or has another header or depth; its bytes of "
        "header, bits and compression:",
        *(header, bits, compression),
    )
    most = where(bits == 1, 2, where(bits == 4, 16, 256))
    count = where(bits <= 8, where(used > 0, used, most), 0)
    table = 14 + header
    reader.check(
        (count <= most) & ((bits > 8) | (table + 4 * count <= offset)),
        "it has too many colors:",
        count,
    )
    reader.check(offset + rows * row <= reader.length, "it is cut short")
    return table, count, offset, row, rows, width, bits, height < 0
