"""Makes text that others wrote safe to print.

What a terminal obeys is not shown: escape sequences, control characters, marks that turn the direction of the text,
and what has no form at all. Python calls all of it unprintable (`str.isprintable`, Unicode's categories C and Z).
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text with each character that cannot be printed written as Python would: `\\x1b`. One line."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines made printable; line ends and tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
