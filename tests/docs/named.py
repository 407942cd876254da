"""What pages name of this repository: `path/file.py`, `path/file.py:Class.function`, `folder/`, in inline code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.docs.test_pages import ROOT

_NAMED = re.compile(r"`([\w.-]+(?:/[\w.-]*)+|[\w-]+\.(?:ini|md|toml))(?::([\w.]+))?`")
_IN_COMMANDS = re.compile(r"(?<![\w/.-])((?:benchmarks|corpus|docs|fuzzvm|harnesses|tests)/[\w./-]*)")


def named(text: str) -> Iterator[tuple[str, str]]:
    """Yield each path of this repository that a text names, and the definition in it, '' where it names none.

    A path with NAME in it is one that the reader is to make: its folder is named.
    """
    for path, name in _NAMED.findall(text):
        yield (f"{path.rpartition('/')[0]}/", "") if "NAME" in path else (path, name)
    for block in re.findall(r"^```.*?^```$|^    .*?$", text, re.MULTILINE | re.DOTALL):
        yield from ((path, "") for path in _IN_COMMANDS.findall(block))


@cache
def definitions(path: Path) -> frozenset[str]:
    """Return the names that a module defines, with those of classes and functions before theirs: `Class.function`."""
    return frozenset(_defined(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            yield prefix + statement.name
            yield from _defined(statement.body, f"{prefix}{statement.name}.")
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield prefix + statement.target.id
        elif isinstance(statement, ast.Assign):
            yield from (prefix + target.id for target in statement.targets if isinstance(target, ast.Name))


def wrong_with(path: str, name: str) -> str:
    """Return what is wrong with what a page names, '' where it is there."""
    file = ROOT / path
    if not file.exists() or path.endswith("/") != file.is_dir():
        return f"there is no {path}"
    if name and name not in definitions(file):
        return f"{path} defines no {name}"
    return ""
