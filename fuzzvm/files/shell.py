"""Quotes text for the commands that fuzzvm suggests: who pastes one runs what it says and nothing else."""

from __future__ import annotations

import shlex


def word(text: str) -> str:
    """Return a text as one word of a shell's command line, in characters that can be printed.

    What cannot be printed stands as an escape in `$'…'`, which bash, zsh, ksh and POSIX.1-2024 know. To other shells
    it is one word as well, of another text: no quote is in it.
    """
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{ord(character):03o}"
    if character.isprintable():
        return character
    code = ord(character)
    # a byte of a file's name that is no UTF-8, see os.fsdecode
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
