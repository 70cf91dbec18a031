"""Text from outside as one line that a terminal only shows."""


def one_line(text: str, *, limit: int = 1000) -> str:
    """Return a text without line breaks and runs of spaces, cut to ``limit`` characters.

    What a terminal would obey (escape sequences in a file's or a column's name) is written out.
    """
    words = " ".join(text.split())
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in words)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."
