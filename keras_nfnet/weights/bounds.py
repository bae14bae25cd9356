"""What a file of others may cost: one line of message, a bound on memory."""

_LONGEST = 500  # Characters.
# Arrays are float32 in memory, which doubles float16.
_MOST_EXPANSION = 4
_SPARE = 2**28


def one_line(error):
    """An error's message as one line of bounded length."""
    text = " ".join(str(error).split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def check_size(sizes, stored):
    """Refuses arrays that take far more memory than their file.

    Args:
        sizes: `{name: bytes in memory}`.
        stored: The file's size in bytes.
    """
    total = sum(sizes.values())
    if total > _MOST_EXPANSION * stored + _SPARE:
        largest = max(sizes, key=sizes.get)
        raise ValueError(
            f"it has {stored} bytes and would take {total} bytes of memory, "
            f"its {largest} alone {sizes[largest]}"
        )
