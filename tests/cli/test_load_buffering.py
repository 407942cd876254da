"""What commands say of load buffering, in words and as JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuzzvm.cli.verdicts import say_load_buffering
from fuzzvm.exhaustive import Verdict
from fuzzvm.exhaustive.load_buffering import EarlyPair, LoadBuffering
from fuzzvm.machine.program import Place
from fuzzvm.verify.verdict_data import load_buffering_to_data

SAFE = Verdict(None, None, True, "", 9, 9, 0.0, LoadBuffering())
LOAD, STORE = Place("walk", "/src/pagewalk.c", 3), Place("set", "/src/mmu.c", 7)
NOT_EXCLUDED = replace(SAFE, load_buffering=LoadBuffering((EarlyPair(1, LOAD, STORE),)))
CUT = replace(SAFE, load_buffering=LoadBuffering(not_looked_at="the search was cut"))
STRONG = replace(SAFE, load_buffering=None)


def test_one_line_counts_and_each_run_that_is_not_excluded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    say_load_buffering(
        [("a", SAFE), ("b", NOT_EXCLUDED), ("c", CUT), ("d", STRONG), ("e", replace(SAFE, missing=("x",)))]
    )
    assert capsys.readouterr().out.splitlines() == [
        "",
        "load buffering: excluded in 1 of 3 runs that are safe under arm64, not looked at in 1",
        "  b: not excluded: CPU 1, store in set (mmu.c:7) before load in walk (pagewalk.c:3)",
        "  c: not looked at, as the search was cut",
    ]


def test_nothing_is_said_where_no_run_is_safe_under_arm64(capsys: pytest.CaptureFixture[str]) -> None:
    say_load_buffering([("d", STRONG)])
    assert capsys.readouterr().out == ""


def test_as_json() -> None:
    assert load_buffering_to_data(STRONG) is None
    assert load_buffering_to_data(SAFE) == {"verdict": "excluded", "why": None, "pairs": []}
    assert load_buffering_to_data(CUT) == {"verdict": "not looked at", "why": "the search was cut", "pairs": []}
    found = load_buffering_to_data(NOT_EXCLUDED)
    assert found is not None
    assert found["verdict"] == "not excluded"
    assert found["pairs"] == [
        {
            "cpu": 1,
            "load": {"function": "walk", "file": "/src/pagewalk.c", "line": 3},
            "store": {"function": "set", "file": "/src/mmu.c", "line": 7},
        }
    ]
