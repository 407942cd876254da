"""Shows what the tests notice: changes one thing in fuzzvm's own source at a time, and runs the tests beside it.

    python benchmarks/mutants.py OUT.jsonl [--each 50] [--seed 0] [--seconds 300]

Works in the clone that it lies in, which it changes and puts back: use one of its own. A mutant is one change of one
place: a comparison turned, `and` for `or`, a condition negated, an integer off by one, a sum for a difference, a
statement left out, a result that is None. ROOMS says where mutants are made, `--each` how many in each room; `--seed`
draws the places, so the same numbers give the same mutants. A mutant that the sample of CI does not notice is tried
again with `--full`: what only that notices, the sample has lost. A test that takes over `--test-seconds` has noticed; a
run of all of them that takes over `--seconds` says nothing, and the mutant is counted as `over time`. OUT.jsonl has a
line for each mutant; those that are there already are not run again.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
ROOMS = {
    "machine": ("fuzzvm/machine",),
    "kernel": ("fuzzvm/kernel",),
    "search": ("fuzzvm/exhaustive", "fuzzvm/runs/strategies"),
}
BESIDE = {
    "machine": ("tests/machine", "tests/litmus", "tests/kernel", "tests/mitigations", "tests/exhaustive"),
    "kernel": ("tests/kernel", "tests/scenario", "tests/mitigations", "tests/exhaustive", "tests/corpus"),
    "search": ("tests/exhaustive", "tests/runs", "tests/machine", "tests/mitigations", "tests/corpus"),
}
"""The tests that are run for a mutant of a room, after those that are named like its module."""
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
OVER_TIME = "over time"
NOT_NOTICED = (0, 5)
"""Exit statuses of pytest: all passed; no test ran."""

Change = Callable[[ast.AST], None]


def _changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """Yield what can be changed in a node, with the word for it. A change is made in place."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:

        def turn(node: ast.AST) -> None:
            assert isinstance(node, ast.Compare)
            node.ops[0] = TURNED[type(node.ops[0])]()

        yield "comparison", turn
    elif isinstance(node, ast.BoolOp):

        def other(node: ast.AST) -> None:
            assert isinstance(node, ast.BoolOp)
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()

        yield "and for or", other
    elif isinstance(node, ast.If | ast.While | ast.IfExp):

        def negate(node: ast.AST) -> None:
            assert isinstance(node, ast.If | ast.While | ast.IfExp)
            node.test = ast.UnaryOp(ast.Not(), node.test)

        yield "negated", negate
    elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):

        def off(node: ast.AST) -> None:
            assert isinstance(node, ast.Constant)
            assert isinstance(node.value, int)
            node.value = not node.value if isinstance(node.value, bool) else node.value + 1

        yield "constant", off
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:

        def swap(node: ast.AST) -> None:
            assert isinstance(node, ast.BinOp)
            node.op = SWAPPED[type(node.op)]()

        yield "operator", swap
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):

        def leave_out(node: ast.AST) -> None:
            assert isinstance(node, ast.Expr)
            node.value = ast.Constant(None)

        yield "left out", leave_out
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):

        def nothing(node: ast.AST) -> None:
            assert isinstance(node, ast.Return)
            node.value = ast.Constant(None)

        yield "returns None", nothing


def places(tree: ast.Module) -> list[tuple[int, str]]:
    """Return each (number of the node in `ast.walk`, word of the change) in bodies of functions, annotations apart."""
    passed_over: set[int] = set()
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in node.body:
                inside.update(id(one) for one in ast.walk(part))
        for field in ("annotation", "returns"):
            if (noted := getattr(node, field, None)) is not None:
                passed_over.update(id(one) for one in ast.walk(noted))
    return [
        (number, word)
        for number, node in enumerate(ast.walk(tree))
        if id(node) in inside and id(node) not in passed_over
        for word, _ in _changes(node)
    ]


def mutated(source: str, number: int, word: str) -> tuple[str, int]:
    """Return the source with one place changed, and its line. Comments and layout go: tests do not see them."""
    tree = copy.deepcopy(ast.parse(source))
    node = list(ast.walk(tree))[number]
    dict(_changes(node))[word](node)
    return ast.unparse(ast.fix_missing_locations(tree)), getattr(node, "lineno", 0)


def drawn(room: str, count: int, seed: int) -> list[tuple[str, int, str]]:
    """Return (file, number of the node, word) of the mutants of a room."""
    every = []
    for folder in ROOMS[room]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            every += [(name, number, word) for number, word in places(ast.parse(path.read_text(encoding="utf-8")))]
    return random.Random(f"{seed} {room}").sample(every, count)


def tests_of(room: str, name: str) -> list[str]:
    """Return the test files and folders to run, those named like the module first."""
    stem = Path(name).stem
    like = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob(f"test_{stem}*.py"))]
    return like + [folder for folder in BESIDE[room] if (ROOT / folder).exists()]


def noticed(room: str, name: str, seconds: tuple[int, int], *, full: bool) -> str | None:
    """Return which test failed, OVER_TIME, or None where all passed; `seconds` are those of one test and of all."""
    one_test, all_tests = seconds
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no"]
    command += ["-o", f"faulthandler_timeout={one_test}", "-o", "faulthandler_exit_on_timeout=true"]
    command += [*(["--full"] if full else []), *tests_of(room, name)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=all_tests, check=False
        )
    except subprocess.TimeoutExpired:
        return OVER_TIME
    if done.returncode in NOT_NOTICED:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:150] if failed else f"pytest ended with {done.returncode}"


def tried(room: str, name: str, number: int, word: str, seconds: tuple[int, int]) -> dict[str, object]:
    """Return the line of one mutant. Its file is put back however the tests end."""
    path = ROOT / name
    source = path.read_text(encoding="utf-8")
    text, line = mutated(source, number, word)
    path.write_text(text, encoding="utf-8")
    try:
        sample = noticed(room, name, seconds, full=False)
        every = sample or noticed(room, name, seconds, full=True)
    finally:
        path.write_text(source, encoding="utf-8")
    return {"room": room, "file": name, "node": number, "line": line, "change": word, "sample": sample, "full": every}


def main() -> int:
    """Make the mutants, run the tests beside each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--each", type=int, default=50, help="mutants in each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-seconds", type=int, default=120, help="for one test")
    parser.add_argument("--seconds", type=int, default=1200, help="for all tests beside one mutant")
    asked = parser.parse_args()
    lines = asked.out.read_text(encoding="utf-8").splitlines() if asked.out.exists() else []
    done: list[dict[str, object]] = [json.loads(line) for line in lines]
    known = {(one["file"], one["node"], one["change"]) for one in done}
    seconds = (asked.test_seconds, asked.seconds)
    for room in ROOMS:
        if failed := noticed(room, ROOMS[room][0], seconds, full=False):
            raise SystemExit(f"{room}: {failed}, without a mutant")
    # a mutant of each room in turn, so that a run that is cut off says something of all
    for together in zip(*(drawn(room, asked.each, asked.seed) for room in ROOMS), strict=True):
        for room, (name, number, word) in zip(ROOMS, together, strict=True):
            if (name, number, word) not in known:
                done.append(one := tried(room, name, number, word, seconds))
                with asked.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(one) + "\n")
                click.echo(f"{name}:{one['line']} {word}: {one['sample'] or one['full'] or 'not noticed'}")
    for room in ROOMS:
        mine = [one for one in done if one["room"] == room]
        sample, full = (sum(one[what] not in (None, OVER_TIME) for one in mine) for what in ("sample", "full"))
        late = sum(OVER_TIME in (one["sample"], one["full"]) for one in mine)
        click.echo(f"{room}: {len(mine)} mutants, {sample} noticed by the sample, {full} by all, {late} over time")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
