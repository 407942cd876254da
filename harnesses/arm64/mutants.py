"""Breaks the AArch64 semantics in one place at a time, and says which breaks the tests do not see.

    python -m harnesses.arm64.mutants --every 3

Mutants change an operator, a number, a truth value or an order in fuzzvm/compiled/arm64/semantics, in code and in
templates. Each is tried by the differential test of tests/compiled/arm64, and if that does not see it, by the other
tests there. Survivors are printed with their line; many are equivalent, such as a refusal that capstone makes anyway.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

from fuzzvm.compiled.arm64 import semantics
from fuzzvm.compiled.arm64.semantics import atomics, branches, common, data_processing, memory, system
from harnesses.arm64 import differential
from harnesses.arm64.encodings import PATTERNS, word
from harnesses.arm64.oracle import Oracle
from harnesses.window import Report

_MODULES = (common, data_processing, branches, memory, atomics, system)
"""What is changed, in the order of imports."""
_OPERATORS = {
    " + ": " - ",
    " - ": " + ",
    " * ": " + ",
    " & ": " | ",
    " | ": " & ",
    " ^ ": " | ",
    " >> ": " << ",
    " << ": " >> ",
    "~": "",
    " >= ": " > ",
    " > ": " >= ",
    "==": "!=",
    "!=": "==",
}
_SEEN, _MISSED = 0, 1


@dataclass(frozen=True)
class Mutant:
    """One change of one module's source."""

    module: ModuleType
    line: int
    what: str
    source: str


def mutants(module: ModuleType) -> Iterator[Mutant]:
    """Yield the mutants of a module."""
    assert module.__file__ is not None
    text = Path(module.__file__).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    annotations = {
        id(part)
        for node in ast.walk(tree)
        for field in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if field is not None
        for part in ast.walk(field)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr) or id(node) in documentation | annotations or node.lineno != node.end_lineno:
            continue
        # columns of the tree count bytes
        old = lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode()
        for new in _changes(node, old):
            changed = list(lines)
            raw = lines[node.lineno - 1].encode()
            changed[node.lineno - 1] = (raw[: node.col_offset] + new.encode() + raw[node.end_col_offset :]).decode()
            yield Mutant(module, node.lineno, f"{old} -> {new}", "".join(changed))


def _changes(node: ast.expr, old: str) -> Iterator[str]:
    match node:
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int()) if old.isalnum():
            yield f"({old} + 1)"
        case ast.Constant(value=str()) | ast.JoinedStr() if "{" in old:
            for operator, other in _OPERATORS.items():
                for index in range(old.count(operator)):
                    pieces = old.split(operator)
                    yield operator.join(pieces[: index + 1]) + other + operator.join(pieces[index + 1 :])
        case ast.BinOp() | ast.Compare():
            for operator, other in _OPERATORS.items():
                if old.count(operator) == 1 and "{" not in old:
                    yield old.replace(operator, other)
        case ast.Attribute(value=ast.Name(id="Order")):
            yield "Order.PLAIN" if node.attr != "PLAIN" else "Order.ACQUIRE"
        case ast.UnaryOp(op=ast.Not()):
            yield f"({old.removeprefix('not ')})"


def _install(mutant: Mutant) -> None:
    """Execute the mutant, and again what imports it."""
    for module in (*_MODULES, semantics):
        assert module.__file__ is not None
        source = mutant.source if module is mutant.module else Path(module.__file__).read_text(encoding="utf-8")
        exec(compile(source, module.__file__, "exec"), module.__dict__)


def _differential_sees(words: int) -> bool:
    oracle, report = Oracle(), Report()
    for name, pattern in PATTERNS.items():
        draw = random.Random(name)
        for _ in range(words):
            differential.compare(oracle, word(pattern, draw), draw, 2, report)
            if report.mismatches:
                return True
    return False


def _tests_see() -> bool:
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        # fuzzvm has been imported before pytest could rewrite it
        quiet_about_that = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
        where = ("-p", "no:cacheprovider", "--ignore=tests/compiled/arm64/test_differential.py", "tests/compiled/arm64")
        return pytest.main(["-q", "-x", "-n", "0", *quiet_about_that, *where]) != 0


def _try(mutant: Mutant, words: int, *, tests: bool) -> bool:
    """Return whether a mutant is seen, in a process of its own."""
    child = os.fork()
    if child == 0:
        status = _SEEN
        # whatever goes wrong in a mutant is seen
        with contextlib.suppress(BaseException):
            _install(mutant)
            status = _SEEN if (_tests_see() if tests else _differential_sees(words)) else _MISSED
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != _MISSED


@click.command(help=__doc__)
@click.option("--every", default=1, show_default=True, help="Try one mutant of so many.")
@click.option("--words", default=80, show_default=True, help="Words of each class of encodings.")
def main(every: int, words: int) -> None:
    same = Mutant(common, 0, "nothing is changed", Path(str(common.__file__)).read_text(encoding="utf-8"))
    if any(_try(same, words, tests=tests) for tests in (False, True)):
        raise click.ClickException("the tests fail for the semantics as they are")
    chosen = [mutant for module in _MODULES for mutant in mutants(module)][::every]
    missed = [mutant for mutant in chosen if not _try(mutant, words, tests=False)]
    click.echo(f"the differential test sees {len(chosen) - len(missed)} of {len(chosen)} mutants")
    survivors = [mutant for mutant in missed if not _try(mutant, words, tests=True)]
    click.echo(f"the other tests see {len(missed) - len(survivors)} of the rest")
    for mutant in survivors:
        click.echo(f"{mutant.module.__name__}:{mutant.line}: {mutant.what}")
    sys.exit(0)


if __name__ == "__main__":
    main()
