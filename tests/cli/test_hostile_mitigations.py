"""Mitigations that misbehave, at the command line and in pytest: some of all that `hostile_files` makes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from fuzzvm.kernel.hooks import Mitigation
from tests.cli.forked import Commands
from tests.cli.hostile_files import ANYWHERE, IN_HOOKS, NO_GENERATORS, TAKES, Hostile, everything, run, wrong_with
from tests.clock import PATIENCE

CASES = [
    ("verify", "after_walk", "segfault"),
    ("verify", "before_change_attr", "leave"),
    ("verify", "module", "loop-in-c"),
    ("verify", "after_free", "fork"),
    ("verify", "before_clear", "loop-at-close"),
    ("verify", "walk_locked", "load-text"),
    ("verify", "before_promotion", "order"),
    ("verify", "before_walk", "counter"),
    ("verify", "free_table", "past-the-end"),
    ("verify", "before_collapse", "eat-memory"),
    ("fuzz", "walk_unlocking", "exit"),
    ("fuzz", "__init__", "swallow"),
    ("fuzz", "after_promotion", "annotations"),
    ("fuzz", "module", "close-all"),
    ("necessity", "before_free", "generator-exit"),
    ("verify", "before_split_alloc", "loop"),
    ("fuzz", "after_split_alloc", "base-exception"),
    ("verify", "before_descend", "number"),
    ("verify", "before_free", "update-built-in"),
    ("fuzz", "after_walk", "update-exits"),
    ("verify", "before_collapse", "update-takes-two"),
    ("verify", "after_walk", "update-ends"),
    ("fuzz", "after_split_alloc", "update-atomic"),
    ("verify", "before_clear", "update-loops-as-lock"),
    ("verify", "after_walk", "hash-ends"),
    ("fuzz", "after_walk", "hash-ends"),
    ("verify", "walk_locked", "lock-of-list"),
    ("verify", "before_walk", "waits-for-number"),
    ("fuzz", "before_walk", "waits-for-number"),
    ("campaign", "after_collapse", "leave-later"),
    ("campaign", "after_walk", "lock"),
    ("pytest", "module", "leave"),
    ("pytest", "before_free", "swallow"),
    ("pytest", "walk_locked", "no-stderr"),
]


@pytest.mark.product
@pytest.mark.parametrize(("command", "place", "way"), CASES)
def test_no_promise_is_broken(tmp_path: Path, command: str, place: str, way: str) -> None:
    # how long it takes is for the long version to measure
    outcome = run(Hostile(place, way), command, tmp_path, slack=PATIENCE)
    assert not outcome.wrong, outcome.said


@pytest.mark.parametrize(
    ("status", "out", "errors", "wrong"),
    [
        (0, "mine  pmd-promotion  sc  none found", "", "exit status 0"),
        (-11, "", "", "exit status -11"),
        (2, "", "", "not one line that names the file"),
        (2, "", "fuzzvm: killed\n", "not one line that names the file"),
        (2, "", "fuzzvm: mine.py:3: x\nmore\n", "not one line that names the file"),
        (2, "", "Traceback (most recent call last):\n", "there is a traceback"),
        (1, "mine  pmd-promotion  sc  safe  10", "", "it is called safe"),
        (1, "mine  pmd-promotion  sc  bug: \x1b[2J", "", "an escape sequence reaches the terminal"),
        (2, "", "fuzzvm: mine.py:3: x\n", ""),
        (1, "mine  pmd-promotion  sc  bug: use-after-free-read", "", ""),
    ],
)
def test_a_broken_promise_is_found(status: int, out: str, errors: str, wrong: str) -> None:
    assert wrong_with(Hostile("attach", "exit"), "verify", status, out, errors) == wrong


def test_the_generator_has_each_hook() -> None:
    hooks = {name: value for name, value in vars(Mitigation).items() if inspect.isgeneratorfunction(value)}
    assert TAKES.keys() == hooks.keys()
    for hook, takes in TAKES.items():
        assert takes == ", ".join(inspect.signature(hooks[hook]).parameters)


def test_the_generator_has_each_way_in_each_place() -> None:
    cases = list(everything())
    assert len(cases) == (len(NO_GENERATORS) + len(TAKES)) * len(ANYWHERE) + len(TAKES) * len(IN_HOOKS)
    for case in cases:
        compile(case.text(), str(case), "exec")


SELDOM = """
from operator import neg
from fuzzvm.machine.ops import Rmw, Store
from fuzzvm.mitigations.none import NoMitigation


class Mine(NoMitigation):
    name = "mine"

    def attach(self, boot):
        self.word = boot.word("mine")

    def before_promotion(self, k, level):
        yield Store(self.word, "text")
        return True

    def after_promotion(self, k, level):
        yield Store(self.word, 0)

    def after_walk(self, k, mm, token):
        yield Rmw(self.word, neg)
"""


@pytest.mark.parametrize("command", ["verify", "fuzz"])
@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_a_function_that_fails_in_some_schedules_is_named(
    commands: Commands, tmp_path: Path, command: str, memory: str
) -> None:
    """No line of it is the user's, as it is built in: the line that yielded the operation is named."""
    (tmp_path / "mine.py").write_text(SELDOM)
    line = SELDOM.splitlines().index("        yield Rmw(self.word, neg)") + 1
    more = ("--all-errors",) if command == "verify" else ("--keep-going", "--runs", "3000", "--jobs", "1")
    ended = commands.run(command, "-m", "mine.py:Mine", "-s", "pmd-promotion", "--memory", memory, *more, cwd=tmp_path)
    assert (ended.status, ended.out) == (2, ""), ended
    assert ended.err == f"fuzzvm: {tmp_path / 'mine.py'}:{line}: TypeError: bad operand type for unary -: 'str'\n"


ENDS = """
from fuzzvm.machine.ops import Rmw, Store
from fuzzvm.machine.program import Constant
from fuzzvm.mitigations.vmap_trylock import VmapTrylock


class Update(Constant):
    def __call__(self, value):
        return value

    @property
    def atomic(self):
        raise StopIteration


class Hash(Constant):
    def __hash__(self):
        raise StopIteration


UPDATE, HASH = Update(), Hash()


class Mine(VmapTrylock):
    name = "mine"

    def attach(self, boot):
        super().attach(boot)
        self.word = boot.word("mine")

    def after_walk(self, k, mm, token):
        yield {op}
        raise OSError("what a search must come to")
"""


@pytest.mark.parametrize("command", ["verify", "fuzz"])
@pytest.mark.parametrize("op", ["Rmw(self.word, UPDATE)", "Store(self.word, HASH)"])
def test_what_an_operation_carries_does_not_end_the_program_in_silence(
    commands: Commands, tmp_path: Path, command: str, op: str
) -> None:
    """StopIteration is how a program returns, and the user's code is asked between its operations."""
    (tmp_path / "mine.py").write_text(ENDS.format(op=op))
    more = ("--runs", "100") if command == "fuzz" else ()
    ended = commands.run(command, "-m", "mine.py:Mine", "-s", "pmd-promotion", "--memory", "sc", *more, cwd=tmp_path)
    assert (ended.status, ended.out) == (2, ""), ended
    assert ended.err.startswith(f"fuzzvm: {tmp_path / 'mine.py'}:") and ended.err.endswith(": StopIteration\n")
