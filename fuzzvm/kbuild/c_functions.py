"""Functions of C source by name: their text without comments and white space, and a digest of it."""

from __future__ import annotations

import hashlib
import re

_COMMENT_OR_LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.DOTALL,
)
_INCLUDE_OF_SLASHES = re.compile(r"^\s*#\s*include\s*<[^>\n]*(//|/\*)", re.MULTILINE)
_TOKEN = re.compile(
    r"""\w+|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|##|[^\w\s]"""
)


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
    """Return whether two sources differ in comments, empty lines and how far things stand apart, and in nothing else.

    What is the same so is the same to preprocessor, compiler and assembler. Of what is not, nothing is said: a blank
    where there was none may be as good, or may make another operator.
    """
    return _lines(old) == _lines(new)


def _lines(source: str) -> list[str]:
    """Return the lines of a source that are not empty, a blank for each comment and run of blanks."""
    # first, as the preprocessor does: a comment goes on behind a backslash at the end of its line
    spliced = source.replace("\\\n", " ")
    if _INCLUDE_OF_SLASHES.search(spliced):
        # a name with // in it is no comment
        return [spliced]
    lines = (" ".join(line.split()) for line in without_comments(spliced).splitlines())
    return [line for line in lines if line]


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
