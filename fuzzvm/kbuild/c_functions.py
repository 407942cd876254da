"""Functions of C source by name: their text without comments and white space, and a digest of it."""

from __future__ import annotations

import hashlib
import re

_COMMENT_OR_LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.DOTALL,
)
_TOKEN = re.compile(r"""\w+|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[^\w\s]""")


def without_comments(source: str) -> str:
    """Return C source with a space in place of each comment; literals stay as they are."""
    return _COMMENT_OR_LITERAL.sub(lambda found: " " if found[0].startswith("/") else found[0], source)


def definitions(source: str, name: str) -> list[str]:
    """Return the text of each definition of a function, from its return type to its last brace, comments apart.

    A function has several where the preprocessor chooses between them. `SYSCALL_DEFINE` and the like are none.
    """
    source = without_comments(source)
    found = []
    # a definition begins a line, and neither `;` nor `=` or a brace is between its type and its body
    pattern = re.compile(rf"^[A-Za-z_][\w \t*\n]*?\b{re.escape(name)}\s*\(", re.MULTILINE)
    for match in pattern.finditer(source):
        behind = _closed(source, match.end() - 1, "()")
        body = re.compile(r"[\s\w]*(?:\([^()]*\)\s*)?\{").match(source, behind)
        if body is None:
            continue
        found.append(source[match.start() : _closed(source, body.end() - 1, "{}")])
    return found


def digest(texts: list[str]) -> str:
    """Return 16 hexadecimal digits that are the same for definitions that differ in comments and white space alone."""
    tokens = [" ".join(_TOKEN.findall(text)) for text in texts]
    return hashlib.blake2b("\n".join(tokens).encode(), digest_size=8).hexdigest()


def same_code(old: str, new: str) -> bool:
    """Return whether two sources differ in comments and white space alone, to preprocessor and compiler."""
    return _tokens(old) == _tokens(new)


def _tokens(source: str) -> list[str]:
    """Return the tokens of a source; where a directive ends is one, as white space ends it."""
    tokens = []
    for line in without_comments(source).replace("\\\n", " ").splitlines():
        tokens += _TOKEN.findall(line)
        if line.lstrip().startswith("#"):
            tokens.append("\n")
    return tokens


def _closed(source: str, opening: int, pair: str) -> int:
    """Return the place behind the bracket that closes the one at `opening`; the end of the text where none does."""
    depth = 0
    for match in re.compile(rf"""[{re.escape(pair)}]|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""").finditer(
        source, opening
    ):
        if match[0] == pair[0]:
            depth += 1
        elif match[0] == pair[1]:
            depth -= 1
            if not depth:
                return match.end()
    return len(source)
