"""The arguments of a call of a kernel function by name, as scenarios write them.

3, -1, 0x68             a number
'page:3'                the address of page 3 of the scenario
'phys:3'                the physical address that page 3 is mapped to
'pmd:3'                 the address of the entry of that level that leads to page 3, as the setup leaves it
'&init_mm'              the address of a variable or function of the image, or of a member: '&init_mm.mmap_lock'
[0, '&init_mm']         the address of words of 8 bytes that the CPU alone has, with these contents
"""

from __future__ import annotations

import ast
import re
from typing import TypeAlias

from fuzzvm.scenario.errors import ScenarioError

Word: TypeAlias = int | str
Argument: TypeAlias = Word | tuple[Word, ...]

MAX_ARGUMENTS = 8
"""Those that AAPCS64 passes in registers."""
MAX_WORDS = 64
LEVELS = ("pte", "pmd", "pud", "p4d", "pgd")
"""Levels of entries, the lowest first; a folded one is that above it."""

_PAGE = re.compile(rf"(page|phys|{'|'.join(LEVELS)}):(0|[1-9][0-9]{{0,8}})")
_SYMBOL = re.compile(r"&([A-Za-z_][A-Za-z0-9_.$]*)")
_KINDS = f"a number, 'page:N', 'phys:N', {', '.join(map(repr, (f'{one}:N' for one in LEVELS)))} or '&SYMBOL'"


def page_of(word: Word) -> tuple[str, int] | None:
    """Return the kind and the number of the page that a word names, None where it names none."""
    found = _PAGE.fullmatch(word) if isinstance(word, str) else None
    return None if found is None else (found[1], int(found[2]))


def symbol_of(word: Word) -> str | None:
    """Return the name of the symbol whose address a word is, None where it is none."""
    found = _SYMBOL.fullmatch(word) if isinstance(word, str) else None
    return None if found is None else found[1]


def words_of(arguments: tuple[Argument, ...]) -> tuple[Word, ...]:
    """Return all words of arguments, those in lists too."""
    return tuple(word for argument in arguments for word in (argument if isinstance(argument, tuple) else (argument,)))


def parse_arguments(node: ast.expr) -> tuple[Argument, ...]:
    """Return the arguments that a list in a call's text stands for. Raises ScenarioError."""
    if not isinstance(node, ast.List):
        raise ScenarioError("arguments must be a list")
    if len(node.elts) > MAX_ARGUMENTS:
        raise ScenarioError(f"{len(node.elts)} arguments, at most {MAX_ARGUMENTS} are possible")
    found: list[Argument] = []
    for number, element in enumerate(node.elts, 1):
        if isinstance(element, ast.List):
            if not 0 < len(element.elts) <= MAX_WORDS:
                raise ScenarioError(
                    f"argument {number} is a list of {len(element.elts)} words, 1 to {MAX_WORDS} are possible"
                )
            found.append(tuple(_word(word, number) for word in element.elts))
        else:
            found.append(_word(element, number))
    return tuple(found)


def shown(arguments: tuple[Argument, ...]) -> str:
    """Return the text of arguments, which `parse_arguments` takes back."""
    each = [f"[{', '.join(map(repr, one))}]" if isinstance(one, tuple) else repr(one) for one in arguments]
    return f"[{', '.join(each)}]"


def _word(node: ast.expr, number: int) -> Word:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    plain = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    value = plain.value if isinstance(plain, ast.Constant) else None
    if type(value) is int:
        value = -value if negative else value
        if not -(1 << 63) <= value < 1 << 64:
            raise ScenarioError(f"argument {number} has more than 64 bits")
        return value
    if type(value) is str and not negative and (page_of(value) or symbol_of(value)):
        return value
    raise ScenarioError(f"argument {number} must be {_KINDS}, or a list of these")
