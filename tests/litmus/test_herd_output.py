"""The text that scripts made for herd7 read."""

from __future__ import annotations

import pytest

from fuzzvm import litmus
from fuzzvm.litmus.herd_output import format_result

SB = """AArch64 SB
{{ 0:X1=x; 0:X3=y; 1:X1=y; 1:X3=x; }}
 P0          | P1          ;
 MOV W0,#1   | MOV W0,#1   ;
 STR W0,[X1] | STR W0,[X1] ;
 LDR W2,[X3] | LDR W2,[X3] ;
{condition}
"""


def test_text() -> None:
    result = litmus.run(SB.format(condition=r"locations [x;] exists (0:X2=0 /\ 1:X2=0)"), "SB")
    assert (
        format_result(result, 0.123)
        == r"""Test SB Allowed
States 4
0:X2=0; 1:X2=0; [x]=1;
0:X2=0; 1:X2=1; [x]=1;
0:X2=1; 1:X2=0; [x]=1;
0:X2=1; 1:X2=1; [x]=1;
Ok
Witnesses
Positive: 1 Negative: 3
Condition exists (0:X2=0 /\ 1:X2=0)
Observation SB Sometimes 1 3
Time SB 0.12

"""
    )


@pytest.mark.parametrize(
    ("condition", "kind", "verdict", "observation"),
    [
        ("exists (0:X2=7)", "Allowed", "No", "Never 0 4"),
        ("~exists (0:X2=7)", "Forbidden", "Ok", "Never 0 4"),
        ("~exists (0:X2=1)", "Forbidden", "No", "Sometimes 2 2"),
        (r"forall (0:X2=0 \/ 0:X2=1)", "Required", "Ok", "Always 4 0"),
        ("forall (0:X2=0)", "Required", "No", "Sometimes 2 2"),
        ("exists (not 0:X2=0 /\\ 1:X2=1)", "Allowed", "Ok", "Sometimes 1 3"),
    ],
)
def test_verdicts(condition: str, kind: str, verdict: str, observation: str) -> None:
    lines = format_result(litmus.run(SB.format(condition=f"locations [0:X2; 1:X2;] {condition}"), "SB"), 0).splitlines()
    assert lines[0] == f"Test SB {kind}"
    assert verdict in lines
    assert f"Observation SB {observation}" in lines


def test_addresses_and_instructions_are_shown_by_name() -> None:
    text = """AArch64 names
{ x=1; 0:X1=x; 0:X2=P0:L0; 0:X3=NOP; }
 P0 ;
 MOV X4,X1 ;
 L0: NOP ;
locations [0:X2; 0:X3; 0:X4;]
exists (0:X4=x)
"""
    result = litmus.run(text, "names")
    assert result.states == (('label:"P0:L0"', "NOP", "x"),)
    assert result.observation == "Always"
