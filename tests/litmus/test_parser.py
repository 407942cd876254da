"""herd7's format: what is read, and that what is not is refused with its line."""

from __future__ import annotations

import pytest

from fuzzvm import litmus
from fuzzvm.litmus.parser import parse, parse_instruction
from fuzzvm.litmus.program import Code, Label, LitmusError, Name, Place
from fuzzvm.machine.memory.arm64.views import CacheType

FULL = r"""AArch64 full.test+1
"a line of documentation"
Variant=Ifetch
Com=Rf Fr
(* a comment
   of two lines *)
{
uint64_t x=0xa1; int y; [z]=-1;
0:X1=x; 0:X2=P1:L0; 0:X3=label:"P1:L0"; 0:X4=instr:"NOP"; 0:X5=NOP;
ins_t *1:X9; int64_t 1: X8 = 7;
}
 P0          | P1 (* second *) ;
 LDR W0,[X1] | L0: MOV W1,#1   ;
             | L1:             ;
 DSB ISH     | L2: L3:         ;
locations [y; 1:X9;]
exists (0:X0=1 /\ (not 1:X1=2 \/ [z]=3 \/ true))
"""


def test_everything_of_the_format() -> None:
    test = parse(FULL)
    assert test.name == "full.test+1"
    assert test.caches is CacheType.DIC0_IDC0
    values = {(str(d.place)): (d.kind, d.pointer, d.value) for d in test.declarations}
    assert values["[x]"] == ("uint64_t", False, 0xA1)
    assert values["[y]"] == ("int", False, None)
    assert values["[z]"] == ("", False, -1)
    assert values["0:X1"] == ("", False, Name("x"))
    assert values["0:X2"] == values["0:X3"] == ("", False, Label(1, "L0"))
    assert isinstance(values["0:X4"][2], Code)
    assert values["0:X5"][2] == Name("NOP")
    assert values["1:X9"] == ("ins_t", True, None)
    assert values["1:X8"] == ("int64_t", False, 7)
    assert [len(thread.code) for thread in test.threads] == [2, 1]
    assert test.threads[1].labels == {"L0": 0, "L1": 1, "L2": 1, "L3": 1}
    assert test.threads[0].code[1].line == 15
    assert test.locations == (Place(None, "y"), Place(1, "X9"))
    assert test.quantifier == "exists"
    assert test.condition.text == r"0:X0=1 /\ (not (1:X1=2) \/ [z]=3 \/ true)"


@pytest.mark.parametrize(
    "text", ["LDR W1,[X2,W3,SXTW #2]", "STR X1,[X2],#8", "LDR X1,[X2,#8]!", "B .+12", "ADD X1,X2,#4"]
)
def test_instructions_print_as_they_are_read(text: str) -> None:
    assert str(parse_instruction(text, 1)) == text


def one(code: str, initial: str = "0:X1=x;", condition: str = "0:X0=0") -> str:
    return f"AArch64 one\n{{ {initial} }}\n P0 ;\n {code} ;\nexists ({condition})\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (one("FOO W0,[X1]"), 4, "unsupported instruction FOO W0,[X1]"),
        (one("LDR W0,[X1,X2,ROR #3]"), 4, "unsupported instruction LDR W0,[X1,X2,ROR #3]"),
        (one("LDR W31,[X1]"), 4, "unsupported instruction LDR W31,[X1]"),
        (one("LDAR W0,[X1,#4]"), 4, "unsupported instruction LDAR W0,[X1,#4]"),
        (one("LDR W0"), 4, "unsupported instruction LDR W0"),
        (one("NOP X1"), 4, "unsupported instruction NOP X1"),
        (one("DMB FOO"), 4, "unsupported instruction DMB FOO"),
        (one("STADDA W0,[X1]"), 4, "unsupported instruction STADDA W0,[X1]"),
        (one("B nowhere"), 4, "no such label in B nowhere"),
        (one("LDR W0,[X1,#4]"), 4, "access at x+4, where no location begins, in LDR W0,[X1,#4]"),
        (one("LDR W0,[X2]"), 4, "access at 0, where no location begins, in LDR W0,[X2]"),
        (one("BR X1"), 4, "branch to x in BR X1"),
        (one("LDR W0,[X1"), 4, "cannot read the instruction 'LDR W0,[X1'"),
        (one("NOP", initial="0:X1=pte(x);"), 2, "cannot read the declaration '0:X1=pte(x)'"),
        (one("NOP", initial='0:X1=asm:"NOP";'), 2, 'value asm:"NOP" is not supported'),
        (one("NOP", initial='0:X1=instr:"(";'), 2, "'(' is no instruction"),
        (one("NOP", initial="0:X1=P0:L9;"), 2, "no label L9 in P0"),
        (one("NOP", initial="7:X1=x;"), 2, "no thread P7"),
        (one("NOP", initial="0:Q1=x;"), 2, "register Q1 is not supported"),
        ("AArch64 short\n{}\n P0 ;\n NOP ;\n", 4, "syntax error: the file ends too early"),
        ("X86 other\n{}\n", 1, "no AArch64 test: it begins with 'X86 other'"),
        ("AArch64 t\n{}\n P1 ;\n NOP ;\nexists (x=0)\n", 3, "the first row of the code must name the threads"),
        ("AArch64 t\n{}\n P0 ;\n NOP | NOP ;\nexists (x=0)\n", 4, "a row of 2 columns for 1 threads"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(LitmusError) as caught:
        litmus.run(text, "name")
    assert caught.value.message.startswith(message)
    assert caught.value.line == line
