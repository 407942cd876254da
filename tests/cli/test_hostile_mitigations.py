"""Mitigations that misbehave, at the command line and in pytest: some of all that `hostile_files` makes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from fuzzvm.kernel.hooks import Mitigation
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
