"""Text from outside, made fit for a terminal: what would move the cursor or turn the writing is spelt out.

Every string that this program did not make itself passes here before a person reads it: what a file, a directory, a
peer or another process says.  Here is one function; those who print call it (``commands``, ``ops.log``).
"""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    r"""``text`` with all but printable characters and blanks as ``\u001b``.  ``keep``: characters that stay.

    That covers control characters (C0, C1), those that change the direction of writing, invisible ones and surrogates.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _spelt(char) for char in text)


def _spelt(char: str) -> str:
    number = ord(char)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
