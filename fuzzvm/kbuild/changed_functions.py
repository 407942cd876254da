"""Which functions of a C file differ between two versions of it, and in which lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_COMMENT_OR_LITERAL = re.compile(
    r"""//(?:\\\n|[^\n])*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.DOTALL,
)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*", re.MULTILINE | re.DOTALL)
_CALLED = re.compile(r"(\w+)\s*\(")
_ATTRIBUTES = re.compile(
    r"__attribute__|__(?:aligned|section|printf|must_hold|acquires|releases|alloc_size|nonnull)\w*"
)
"""What stands before the name of a function, with brackets of its own."""


@dataclass(frozen=True)
class Function:
    """A definition: its name, its first line and its last, from 1."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class ChangedFunction:
    """A function of a file that differs: the lines before the change and after it, from 1; comments are no change."""

    name: str
    file: str
    before: frozenset[int]
    after: frozenset[int]


def functions(source: str) -> list[Function]:
    """Return the definitions of functions in C source, in order.

    A brace in the first column closes a definition, as in the kernel's style, whatever the preprocessor leaves out.
    """
    found = []
    depth, header, first = 0, "", 0
    for number, line in enumerate(_code(source).splitlines(), start=1):
        if line.startswith("}"):
            depth = min(depth, 1)
        for piece in re.findall(r"[{};]|[^{};]+", line):
            if depth == 0 and piece == ";":
                header = ""
            elif depth == 0 and piece not in "{}":
                if not header.strip():
                    first = number
                header += f"{piece} "
            elif piece == "{":
                depth += 1
            elif piece == "}" and depth:
                depth -= 1
                if depth == 0:
                    if name := _name(header):
                        found.append(Function(name, first, number))
                    header = ""
    return found


def _name(header: str) -> str:
    """Return the name of the function whose body follows, '' for a type, a variable or anything else."""
    if "=" in header:
        return ""
    return next((name for name in _CALLED.findall(header) if not _ATTRIBUTES.fullmatch(name)), "")


def _code(source: str) -> str:
    """Return source without comments, literals and directives; every line stays where it is."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n") or " "

    return _DIRECTIVE.sub(blank, _COMMENT_OR_LITERAL.sub(blank, source))


def changed_functions(file: str, old: str, new: str) -> list[ChangedFunction]:
    """Return the functions of a file that differ, by name; several definitions of one name count as one."""
    before, after = _changed_lines(old, new)
    sides = [
        {one.name: frozenset[int]() for one in functions(text)} | _by_function(functions(text), lines)
        for text, lines in ((old, before), (new, after))
    ]
    names = dict.fromkeys([*sides[0], *sides[1]])
    every = [ChangedFunction(name, file, *(side.get(name, frozenset()) for side in sides)) for name in names]
    return [one for one in every if one.before or one.after]


def _by_function(found: Sequence[Function], lines: frozenset[int]) -> dict[str, frozenset[int]]:
    inside: dict[str, frozenset[int]] = {}
    for one in found:
        mine = lines & frozenset(range(one.first, one.last + 1))
        inside[one.name] = inside.get(one.name, frozenset()) | mine
    return inside


def _changed_lines(old: str, new: str) -> tuple[frozenset[int], frozenset[int]]:
    """Return the numbers of the lines that differ in more than comments and white space."""
    texts = [list(_numbered(text)) for text in (old, new)]
    lines = [[line for _, line in text] for text in texts]
    start, end = 0, 0
    shortest = min(map(len, lines))
    while start < shortest and lines[0][start] == lines[1][start]:
        start += 1
    while end < shortest - start and lines[0][-1 - end] == lines[1][-1 - end]:
        end += 1
    old_lines, new_lines = (one[start : len(one) - end] for one in lines)
    before: set[int] = set()
    after: set[int] = set()
    matcher = SequenceMatcher(None, old_lines, new_lines, autojunk=False)
    for tag, low, high, new_low, new_high in matcher.get_opcodes():
        if tag != "equal":
            before |= {number for number, _ in texts[0][start + low : start + high]}
            after |= {number for number, _ in texts[1][start + new_low : start + new_high]}
    return frozenset(before), frozenset(after)


def _numbered(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, without comments, with their numbers."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if not found[0].startswith("/") else "\n" * found[0].count("\n") or " "

    for number, line in enumerate(_COMMENT_OR_LITERAL.sub(blank, source).splitlines(), start=1):
        if words := " ".join(line.split()):
            yield number, words
