"""Bounds of an exploration: what is found until then, and no verdict that it does not settle."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from fuzzvm import litmus
from fuzzvm.litmus import Result, bounds
from tests.clock import no_hang

SB = """AArch64 SB
{{ 0:X1=x; 0:X3=y; 1:X1=y; 1:X3=x; }}
 P0          | P1          ;
 MOV W0,#1   | MOV W0,#1   ;
 STR W0,[X1] | STR W0,[X1] ;
 LDR W2,[X3] | LDR W2,[X3] ;
{condition}
"""


def bounded(condition: str, max_states: int) -> Result:
    return litmus.run(SB.format(condition=condition), "SB", max_states=max_states)


@pytest.mark.parametrize(
    ("condition", "max_states", "observation", "verdict"),
    [
        # one timeline: neither store is there, and no thread has come to its end
        ("exists (0:X2=0)", 1, "Undecided", "Undecided"),
        ("~exists (0:X2=0)", 1, "Undecided", "Undecided"),
        ("forall (0:X2=0)", 1, "Undecided", "Undecided"),
        # four: a state with 0:X2=0 is found, more may come
        ("exists (0:X2=0)", 4, "Sometimes", "Ok"),
        ("~exists (0:X2=0)", 4, "Sometimes", "No"),
        ("exists (0:X2=7)", 4, "Undecided", "Undecided"),
        ("forall (0:X2=7)", 4, "Undecided", "No"),
        ("forall (0:X2=0 \\/ 0:X2=1)", 4, "Sometimes", "Undecided"),
    ],
)
def test_a_bound_on_states(condition: str, max_states: int, observation: str, verdict: str) -> None:
    result = bounded(condition, max_states)
    assert result.stopped == f"--max-states {max_states} reached"
    assert (result.observation, result.verdict) == (observation, verdict)
    assert not result.complete
    assert result.ok is (verdict == "Ok")


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    assert bounded("exists (0:X2=0)", 5) == litmus.run(SB.format(condition="exists (0:X2=0)"), "SB")


LOOP = """AArch64 loop
{ 0:X1=x; }
 P0                ;
 l: LDADD W2,W3,[X1] ;
 ADD W2,W2,#1      ;
 CBZ W9,l          ;
forall (0:X3=1)
"""


@pytest.mark.parametrize("speedcheck", ["false", "true", "fast"])
def test_a_bound_on_time_ends_a_test_that_has_no_end(speedcheck: str) -> None:
    with no_hang():
        result = litmus.run(LOOP, "loop", speedcheck, max_seconds=0.2)
    assert result.stopped == "--max-seconds 0.2 reached"
    assert result.verdict == "Undecided"


def test_a_bound_on_time_ends_the_runs_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 24 store exclusives succeeds or fails: 2 ** 24 runs of the thread on the first timeline."""
    monkeypatch.setattr(bounds, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    rows = "".join(f" LDXR W28,[X{number}] ;\n STXR W27,W26,[X{number}] ;\n" for number in range(24))
    initial = " ".join(f"0:X{number}=v{number};" for number in range(24))
    with no_hang():
        result = litmus.run(f"AArch64 one\n{{ {initial} }}\n P0 ;\n{rows}exists (0:X26=1)\n", "one", max_seconds=9)
    assert (result.stopped, result.timelines) == ("--max-seconds 9 reached", 1)


def test_a_bound_on_time_ends_one_run_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    rows = " ADD X0,X0,#1 ;\n" * 3000
    result = litmus.run(f"AArch64 long\n{{ }}\n P0 ;\n{rows}exists (0:X0=1)\n", "long", max_seconds=9)
    assert (result.stopped, result.verdict) == ("--max-seconds 9 reached", "Undecided")


def test_a_bound_on_time_ends_the_final_states_of_one_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 24 threads loads one of two values: 2 ** 24 final states of two timelines."""
    monkeypatch.setattr(bounds, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    threads = range(24)
    head = " | ".join(f"P{number}" for number in threads)
    row = " | ".join("LDR W0,[X1]" if number else "STR W0,[X1]" for number in threads)
    initial = "0:X0=1; " + " ".join(f"{number}:X1=x;" for number in threads)
    shown = " ".join(f"{number}:X0;" for number in threads)
    test = f"AArch64 many\n{{ {initial} }}\n {head} ;\n {row} ;\nlocations [{shown}]\nexists (1:X0=2)\n"
    with no_hang():
        assert litmus.run(test, "many", max_seconds=99).stopped == "--max-seconds 99 reached"
