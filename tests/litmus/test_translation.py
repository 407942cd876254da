"""Translated accesses: what is read and printed of page tables, and that no reduction of the search changes a result.

What a walk may read is in corpus/litmus/vmsa, a test for each rule.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzzvm import litmus
from fuzzvm.litmus import LitmusError, entries
from fuzzvm.litmus.herd_output import state_lines
from fuzzvm.litmus.program import Instruction
from tests.litmus.test_reductions import agree

VA, ENTRY, FLAG, OWN = "X20", "X21", "X22", "X23"
SHOOT = ["DSB ISH", f"LSR X9,{VA},#12", "TLBI VAAE1IS,X9", "DSB ISH"]
BARRIERS = ("DMB SY", "DMB ST", "DSB ISH", "ISB")
ENTRIES = ("X11", "X12", "X13")


@st.composite
def thread(draw: st.DrawFn) -> list[str]:
    """Return the code of one thread; what it loads ends in W0, W1, ..."""
    lines: list[str] = []
    loads = itertools.count()
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.sampled_from("LLSEEFVOB")):
            case "L":
                lines.append(f"LDR W{next(loads)},[{VA}]")
            case "S":
                lines.append(f"STR W10,[{VA}]")
            case "E":
                lines.append(f"STR {draw(st.sampled_from(ENTRIES))},[{ENTRY}]")
            case "F":
                lines.append(draw(st.sampled_from((f"STR W10,[{FLAG}]", f"LDR W{next(loads)},[{FLAG}]"))))
            case "O":
                lines.append(f"STR W10,[{OWN}]")
            case "V":
                lines += draw(st.sampled_from((SHOOT, SHOOT[1:], SHOOT[1:3], ["TLBI VMALLE1IS", "DSB ISH"])))
            case "B":
                lines.append(draw(st.sampled_from(BARRIERS)))
    return lines


@st.composite
def programs(draw: st.DrawFn) -> str:
    columns = [draw(thread()) for _ in range(2)]
    return text(columns, draw(st.sampled_from(("Variant=vmsa", "Variant=vmsa,ets2", "TTHM=HD", "TTHM=P0:HA"))))


def text(columns: list[list[str]], header: str = "Variant=vmsa") -> str:
    initial, shown = ["x=1; y=2; [PTE(x)]=(db:0, dbm:1);"], ["[x]", "[y]", "[PTE(x)]"]
    for number, column in enumerate(columns):
        initial.append(f"{number}:X20=x; {number}:X21=PTE(x); {number}:X22=f; {number}:X23=u{number}; {number}:X10=3;")
        initial.append(f"{number}:X11=(oa:PA(x), valid:0); {number}:X12=(oa:PA(y), af:0);")
        initial.append(f"{number}:X13=(oa:PA(x), db:0, dbm:1);")
        shown += [f"{number}:X{at}" for at in range(sum(line.startswith("LDR") for line in column))]
        shown += [f"u{number}", f"fault(P{number},x)"]
    rows = "".join(" | ".join(row) + " ;\n" for row in itertools.zip_longest(*columns, fillvalue=""))
    head = " | ".join(f"P{number}" for number in range(len(columns)))
    places = " ".join(f"{place};" for place in shown)
    given_text = "\n".join(initial)
    return f"AArch64 random\n{header}\n{{\n{given_text}\n}}\n{head} ;\n{rows}locations [{places}]\nexists (true)\n"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
@example(text([["STR X11,[X21]", *SHOOT, "STR W10,[X22]"], ["LDR W0,[X22]", "LDR W1,[X20]"]]))
@example(text([[*SHOOT[1:], "STR W10,[X22]"], ["STR X11,[X21]", "DMB SY", "LDR W0,[X22]", "LDR W1,[X20]"]]))
@example(text([["STR X13,[X21]", "STR W10,[X20]"], ["LDR W0,[X20]"]], "TTHM=HD"))
@example(text([["STR X12,[X21]", "LDR W0,[X20]"], ["LDR W0,[X22]"]], "TTHM=P0:HA"))
def test_reductions_change_nothing(test: str) -> None:
    agree(test)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("(oa:phy_x)", "(oa:PA(x))"),
        ("(valid:0, dbm:1, db:0, af:0, oa:PA(x))", "(oa:PA(x), af:0, db:0, dbm:1, valid:0)"),
        ("(db:1, af:1, valid:1, dbm:0)", "(oa:PA())"),
    ],
)
def test_entries_are_printed_as_herd7_prints_them(value: str, shown: str) -> None:
    test = f"AArch64 one\n{{\nx=1; 0:X0={value};\n}}\nP0 ;\nNOP ;\nlocations [0:X0;]\nexists (true)\n"
    assert state_lines(litmus.run(test, "one")) == [f"0:X0={shown};"]


def test_the_entry_of_a_location_leads_to_it_unless_it_says_otherwise() -> None:
    test = "AArch64 one\n{\npte_x=(valid:0);\n}\nP0 ;\nNOP ;\nlocations [pte_x; PTE(y);]\nexists (pte_x=(valid:0))\n"
    result = litmus.run(test, "one")
    assert state_lines(result) == ["[PTE(x)]=(oa:PA(x), valid:0); [PTE(y)]=(oa:PA(y));"]
    assert result.observation == "Always"


def test_bits_of_an_entry_are_set_and_cleared_by_instructions() -> None:
    code = "ORR X1,X0,#128 ;\nBIC X2,X1,#1 ;\nAND X3,X2,#1024 ;\nAND X4,X2,#1 ;\nEOR X5,X2,X2 ;\n"
    test = f"AArch64 one\n{{\n0:X0=(oa:PA(x));\n}}\nP0 ;\n{code}locations [0:X2; 0:X3; 0:X4; 0:X5;]\nexists (true)\n"
    assert state_lines(litmus.run(test, "one")) == ["0:X2=(oa:PA(x), db:0, valid:0); 0:X3=1024; 0:X4=0; 0:X5=0;"]


@pytest.mark.parametrize("name", ["ADD", "EOR", "LSR", "BIC"])
def test_other_arithmetic_on_entries_is_refused(name: str) -> None:
    with pytest.raises(LitmusError, match="makes no page-table value"):
        entries.compute(name, entries.encode(1, ()), 1 << 20, Instruction(name, (), 7))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("LDXR W1,[X0]", "LDXR W1,.X0. is supported for page-table entries only"),
        ("CAS W1,W2,[X0]", "CAS W1,W2,.X0. is supported for page-table entries only"),
        ("STR X2,[X4] ; LDR W1,[X0]", "finds 5 for the page-table entry of x"),
        ("STR X3,[X4] ; LDR W1,[X0]", r"goes by .oa:PA\(\).*, which has no page"),
        ("DSB NSH", "unsupported instruction DSB NSH"),
        ("IC IVAU,X0", "unsupported instruction IC IVAU,X0"),
        ("L: ADR X5,L ; LDR W1,[X5]", "LDR W1,.X5. accesses code"),
    ],
)
def test_what_is_not_modelled_is_refused(code: str, message: str) -> None:
    lines = " ;\n".join(code.split(" ; "))
    initial = "0:X0=x; 0:X4=PTE(x); 0:X2=5; 0:X3=(db:1);"
    with pytest.raises(LitmusError, match=message):
        litmus.run(f"AArch64 one\nVariant=vmsa\n{{\n{initial}\n}}\nP0 ;\n{lines} ;\nexists (true)\n", "one")


def test_a_fault_in_a_handler_is_refused() -> None:
    initial = "0:X0=x; pte_x=(valid:0);"
    test = f"AArch64 one\n{{\n{initial}\n}}\nP0 | P0.F ;\nLDR W1,[X0] | LDR W1,[X0] ;\nexists (true)\n"
    with pytest.raises(LitmusError, match="faults in a fault handler"):
        litmus.run(test, "one")
