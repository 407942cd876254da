"""Programs of CPUs keep their state in their frames' locals and nowhere else.

That is what lets a CPU's state be its position and its locals: a `yield` stands alone, or is the whole right side of
an assignment or a `return`, and no `for`, comprehension, `with` or `try` is around it, whose state no local holds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuzzvm

ROOT = Path(fuzzvm.__file__).parent
EXEMPT = {"oracles.py", "tlb.py", "user_files.py"}
"""Generators that are iterators of plain Python, not programs."""
FILES = sorted(
    path
    for path in [
        *(ROOT / "kernel").rglob("*.py"),
        *(ROOT / "mitigations").rglob("*.py"),
        ROOT / "scenario" / "calls.py",
    ]
    if path.name not in EXEMPT
)
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
ENCLOSING = (
    ast.For
    | ast.AsyncFor
    | ast.With
    | ast.AsyncWith
    | ast.Try
    | ast.TryStar
    | ast.ListComp
    | ast.SetComp
    | ast.DictComp
    | ast.GeneratorExp
)


def offences(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and reason of every `yield` that stands where it must not."""

    def visit(node: ast.AST, around: tuple[str, ...], allowed: ast.AST | None) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Yield | ast.YieldFrom):
            if node is not allowed:
                yield node.lineno, "is part of an expression"
            for name in around:
                yield node.lineno, f"is inside {name}"
        if isinstance(node, FUNCTIONS):
            around = ()
        elif isinstance(node, ENCLOSING):
            around = (*around, type(node).__name__)
        value = node.value if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign | ast.Return) else None
        for child in ast.iter_child_nodes(node):
            yield from visit(child, around, value)

    yield from visit(ast.parse(source), (), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_yields_stand_where_they_may(path: Path) -> None:
    found = [f"{path}:{line}: yield {why}" for line, why in offences(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_there_is_something_to_check() -> None:
    names = {path.name for path in FILES}
    assert {
        "vmap.py",
        "pageattr.py",
        "alternative.py",
        "set_memory.py",
        "static_key.py",
        "calls.py",
        "rwsem.py",
        "ptdump.py",
    } <= names


GOOD = """
def program(k):
    yield Fence(DSB)
    value = yield Load(a)
    other: int = yield Load(b)
    done = yield from helper(k)
    index = 0
    while index < len(things):
        if value:
            yield from helper(k, [thing for thing in things], *(x for x in things))
        index += 1
    return (yield from helper(k))
"""


def test_the_good_ones_pass() -> None:
    assert list(offences(GOOD)) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("x = 1 + (yield a)", "is part of an expression"),
        ("f((yield a))", "is part of an expression"),
        ("x, y = (yield a), (yield b)", "is part of an expression"),
        ("x += yield a", "is part of an expression"),
        ("if (yield a): pass", "is part of an expression"),
        ("while (yield a): pass", "is part of an expression"),
        ("return bool((yield a))", "is part of an expression"),
        ("assert (yield a)", "is part of an expression"),
        ("yield (yield a)", "is part of an expression"),
        ("x = (y := (yield a))", "is part of an expression"),
        ("for x in xs:\n  yield x", "is inside For"),
        ("for x in xs:\n  while x:\n   if x:\n    y = yield x", "is inside For"),
        ("with lock:\n  yield a", "is inside With"),
        ("try:\n  yield a\n finally:\n  pass", "is inside Try"),
        ("try:\n  pass\n finally:\n  yield a", "is inside Try"),
        ("x = list((yield a) for a in xs)", None),
    ],
)
def test_the_bad_ones_are_found(body: str, reason: str | None) -> None:
    source = f"def program(k):\n {body}\n"
    if reason is None:
        with pytest.raises(SyntaxError):
            compile(source, "snippet", "exec")
    else:
        assert reason in {why for _, why in offences(source)}


def test_a_function_within_is_judged_by_itself() -> None:
    assert list(offences("def f():\n for x in y:\n  def g():\n   yield 1\n")) == []
