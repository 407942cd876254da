"""Loops: a branch to itself that is patched away ends, and a test that no execution of ends is told as such."""

from __future__ import annotations

import pytest

from fuzzvm import litmus
from tests.clock import no_hang

SPIN = """AArch64 spin
{ x=0; 0:X1=x; }
 P0             ;
 L: LDR W3,[X1] ;
 CBZ W3,L       ;
%s
"""


@pytest.mark.parametrize("speedcheck", ["false", "true", "fast"])
@pytest.mark.parametrize("condition", ["forall (0:X3=1)", "exists (0:X3=1)", "~exists (0:X3=1)"])
def test_where_nothing_ends_nothing_is_asked(condition: str, speedcheck: str) -> None:
    result = litmus.run(SPIN % condition, "spin", speedcheck)
    assert (result.verdict, result.ok, result.vacuous, result.states) == ("Vacuous", False, True, ())


@pytest.mark.parametrize("speedcheck", ["false", "true", "fast"])
def test_where_something_ends_it_is(speedcheck: str) -> None:
    text = (SPIN % "~exists (0:X3=7)").replace("x=0", "x=1")
    result = litmus.run(text, "spin", speedcheck)
    assert (result.verdict, result.vacuous) == ("Ok", False)


def patched(code: str, handler: str = "") -> litmus.Result:
    text = f"""AArch64 patched
{{ 0:X5=x; 1:X0=P0:L; 1:X1={code}; 1:X5=x; }}
 P0                 {"| P0.F" if handler else ""}  | P1          ;
 MOV W6,#1          {"| " + handler if handler else ""}  | LDR W7,[X5] ;
 STR W6,[X5]        {"| " if handler else ""}  | CBZ W7,end  ;
 L: B L             {"| " if handler else ""}  | STR W1,[X0] ;
 MOV W9,#1          {"| " if handler else ""}  | end: NOP    ;
exists (0:X9=1 /\\ 1:X7=1)
"""
    with no_hang():
        return litmus.run(text, "patched")


def test_a_branch_to_itself_that_another_thread_patches() -> None:
    """The thread that waits there has to be run to its loop for the patch, which waits for its store, to come."""
    result = patched("NOP")
    assert (result.observation, result.verdict, result.cut) == ("Always", "Ok", False)


def test_a_branch_to_itself_that_stays_one() -> None:
    assert patched('instr:"B .+0"').verdict == "Vacuous"


def test_a_loop_whose_every_step_has_two_ways_is_cut() -> None:
    text = """AArch64 count
{ 0:X1=x; 0:X4=P0:L; 1:X1=x; 1:X2=1; }
 P0             | P1          ;
 L: NOP         | STR W2,[X1] ;
 ADD X5,X5,#1   |             ;
 LDR W3,[X1]    |             ;
 B L            |             ;
exists (0:X5=7)
"""
    with no_hang():
        result = litmus.run(text, "count", max_states=2)
    assert result.cut and result.verdict == "Undecided"


def test_code_that_is_long_is_no_loop() -> None:
    rows = " ADD W0,W0,#1 ;\n" * 600
    result = litmus.run(f"AArch64 long\n{{ }}\n P0 ;\n{rows}forall (0:X0=600)\n", "long")
    assert (result.verdict, result.cut) == ("Ok", False)
