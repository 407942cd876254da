"""What instructions compute, one thread at a time."""

from __future__ import annotations

import pytest

from fuzzvm import litmus


def final(code: str, place: str = "0:X0", initial: str = "") -> set[str]:
    """Return the final values of a place after one thread's code, lines separated by semicolons."""
    rows = "".join(f" {line} ;\n" for line in code.split(";"))
    text = f"AArch64 one\n{{ x=10; 0:X20=x; 0:X21=y; {initial} }}\n P0 ;\n{rows}locations [{place};]\nexists (true)\n"
    return {value for (value,) in litmus.run(text, "one").states}


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("MOV W0,#7", 7),
        ("MOV W1,#7; MOV X0,X1", 7),
        ("MOV W1,#6; ADD W0,W1,#1", 7),
        ("MOV W1,#1; ADD W0,W1,#2,LSL #1", 5),
        ("MOV W1,#6; MOV W2,#2; SUB W0,W1,W2", 4),
        ("MOV W1,#1; SUB W0,WZR,W1", -1),
        ("MOV W1,#6; AND W0,W1,#3", 2),
        ("MOV W1,#6; ORR W0,W1,#1", 7),
        ("MOV W1,#6; EOR W0,W1,W1", 0),
        ("MOV W1,#1; SUB W1,WZR,W1; SXTW X2,W1; ADD X0,X2,#3", 2),
        ("MOV W1,#1; ADD X0,X1,W1,SXTW #2", 5),
        ("MOV W1,#5; CMP W1,#5; CSET W0,EQ", 1),
        ("MOV W1,#5; CMP W1,#6; CSET W0,LT", 1),
        ("MOV W1,#5; CMP W1,#6; CSET W0,HS", 0),
        ("MOV W1,#5; MOV W2,#6; CMP W1,W2; CSEL W0,W1,W2,GT", 6),
        ("MOV W1,#5; MOV W2,#6; CMP W1,W2; CSINC W0,W1,W2,GT", 7),
        ("LDR W0,[X20]", 10),
        ("MOV W1,#3; STR W1,[X20]; LDR W0,[X20]", 3),
        ("MOV W1,#3; STLR W1,[X20]; LDAR W0,[X20]", 3),
        ("MOV W1,#3; SWP W1,W0,[X20]", 10),
        ("MOV W1,#3; LDADD W1,W2,[X20]; LDR W0,[X20]", 13),
        ("MOV W1,#3; STADD W1,[X20]; LDR W0,[X20]", 13),
        ("MOV W1,#2; LDCLR W1,W2,[X20]; LDR W0,[X20]", 8),
        ("MOV W1,#3; LDEOR W1,W2,[X20]; LDR W0,[X20]", 9),
        ("MOV W1,#5; LDSET W1,W2,[X20]; LDR W0,[X20]", 15),
        ("MOV W1,#12; LDSMAX W1,W2,[X20]; LDR W0,[X20]", 12),
        ("MOV W1,#1; SUB W1,WZR,W1; LDSMIN W1,W2,[X20]; LDR W0,[X20]", -1),
        ("MOV W1,#12; LDUMAXAL W1,W2,[X20]; LDR W0,[X20]", 12),
        ("MOV W1,#3; LDUMINA W1,W2,[X20]; LDR W0,[X20]", 3),
        ("MOV W0,#10; MOV W1,#3; CAS W0,W1,[X20]", 10),
        ("MOV W2,#10; MOV W1,#3; CASAL W2,W1,[X20]; LDR W0,[X20]", 3),
        ("MOV W2,#9; MOV W1,#3; CAS W2,W1,[X20]; LDR W0,[X20]", 10),
        ("MOV W0,#1; B over; MOV W0,#2; over: NOP", 1),
        ("MOV W0,#1; CBZ W0,over; MOV W0,#2; over: NOP", 2),
        ("MOV W0,#1; CBNZ W0,over; MOV W0,#2; over: NOP", 1),
        ("MOV W0,#1; CMP W0,#1; B.NE over; MOV W0,#2; over: NOP", 2),
        ("B main; f: MOV W0,#4; RET; main: BL f; ADD W0,W0,#1", 5),
        ("ADR X1,over; BR X1; MOV W0,#9; over: NOP", 0),
        ("B main; f: MOV W0,#4; RET; main: ADR X1,f; BLR X1; ADD W0,W0,#1", 5),
        ("MOV W0,#1; B .+8; MOV W0,#2; NOP", 1),
        ("LDR W1,[X20],#0; LDR W2,[X20,#0]; LDR W3,[X20,X5]; LDR W0,[X20,W5,SXTW]", 10),
        ("MOV W3,#1; STXR W0,W3,[X20]", 1),
        ("LDXR W1,[X20]; MOV W3,#1; STXR W0,W3,[X21]", 1),
    ],
)
def test_value(code: str, value: int) -> None:
    assert final(code) == {str(value)}


def test_a_store_exclusive_may_succeed_or_fail() -> None:
    assert final("LDXR W1,[X20]; ADD W1,W1,#1; STXR W0,W1,[X20]") == {"0", "1"}
    assert final("LDAXR W1,[X20]; ADD W1,W1,#1; STLXR W0,W1,[X20]", "x") == {"10", "11"}


def test_write_back_moves_the_base() -> None:
    assert final("SUB X1,X20,#8; LDR W0,[X1,#8]!; LDR W0,[X1]") == {"10"}


def test_an_undefined_instruction_goes_to_the_fault_handler() -> None:
    text = """AArch64 fault
{ 0:X0=0; 0:X1=P0:m; }
 P0          | P0.F           ;
 STR W0,[X1] | MOV W2,#1      ;
 DC CVAU,X1  | ADR X9,l       ;
 DSB ISH     | MSR ELR_EL1,X9 ;
 IC IVAU,X1  | ERET           ;
 DSB ISH     |                ;
 ISB         |                ;
 m: B l      |                ;
 l:          |                ;
forall (0:X2=1)
"""
    assert litmus.run(text, "fault").ok


def test_a_loop_that_comes_back_to_its_state_is_explored_to_its_end() -> None:
    text = """AArch64 loop
{ 0:X1=x; 1:X1=x; }
 P0             | P1          ;
 l: LDR W0,[X1] | MOV W0,#1   ;
 CBZ W0,l       | STR W0,[X1] ;
exists (0:X0=1)
"""
    result = litmus.run(text, "loop")
    assert not result.cut
    assert result.observation == "Always"


def test_a_loop_of_exclusives_is_explored_to_its_end() -> None:
    rows = "".join(
        f" {line} | {line} ;\n" for line in ("l: LDXR W2,[X1]", "ADD W2,W2,#1", "STXR W3,W2,[X1]", "CBNZ W3,l")
    )
    result = litmus.run(f"AArch64 loop\n{{ 0:X1=x; 1:X1=x; }}\n P0 | P1 ;\n{rows}forall (x=2)\n", "loop")
    assert not result.cut
    assert result.ok


def test_a_loop_that_never_comes_back_is_said_to_be_cut() -> None:
    result = litmus.run("AArch64 loop\n{}\n P0 ;\n l: ADD W0,W0,#1 ;\n B l ;\nexists (0:X0=0)\n", "loop")
    assert result.cut
    assert result.states == ()


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("", "-1"), ("int", "-1"), ("uint32_t", "4294967295"), ("int64_t", "4294967295"), ("int8_t", "-1")],
)
def test_final_values_have_the_type_of_their_place(kind: str, shown: str) -> None:
    assert final("MOV W1,#1; SUB W0,WZR,W1", initial=f"{kind} 0:X0;" if kind else "") == {shown}
