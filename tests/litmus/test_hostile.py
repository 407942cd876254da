"""Litmus tests that mean harm: refused in one line, soon, without much memory."""

from __future__ import annotations

import pytest

from fuzzvm.litmus import LitmusError, run
from fuzzvm.litmus.semantics import _BUILT, Compiler
from tests.clock import no_hang

SIZE = 1 << 16
HEAD = "AArch64 X\n{0:X1=1;}\n P0 ;\n %s ;\nexists %s\n"

HOSTILE = {
    "parentheses": HEAD % ("NOP", "(" * (SIZE // 2) + "true" + ")" * (SIZE // 2)),
    "negations": HEAD % ("NOP", "not " * (SIZE // 4) + "true"),
    "digits": HEAD % ("NOP", "0:X1=" + "9" * SIZE),
    "digits of a branch": HEAD % ("B .+" + "9" * SIZE, "true"),
    "number of a thread": HEAD % ("NOP", "9" * SIZE + ":X1=0"),
    "a thread below the first": HEAD % ("NOP", "-1:X1=0"),
    "name of a thread": "AArch64 X\n{}\n P" + "0" * SIZE + " ;\n NOP ;\nexists true\n",
    "number of a register": "AArch64 X\n{0:X" + "1" * SIZE + "=1;}\n P0 ;\n NOP ;\nexists true\n",
    "a long shift": HEAD % ("MOV X0,#1, LSL #30000000000", "0:X0=1"),
    "a shift below 0": HEAD % ("ADD X0,X1,X1, LSL #-1", "0:X0=1"),
    "lines behind what cannot be read": "AArch64 X\n{}\n P0 ;\n LDR { ;" + " \n" * (SIZE // 2) + "x",
    "brackets of a declaration": "AArch64 X\n" + "{" * SIZE,
    "brackets of an instruction": "AArch64 X\n{}\n P0 ;\n" + "LDR {" * (SIZE // 5),
    "what looks like tags": "AArch64 X\n{ x=(" + "a :" * (SIZE // 3),
    "comments": HEAD % ("NOP", "true " + "(* *" * (SIZE // 4)),
    "a title that a terminal obeys": "AArch64 \x1b[2J\n{}\n P0 ;\n NOP ;\nexists true\n",
    "a value that a terminal obeys": 'AArch64 X\n{0:X1=str:"\x1b[2J";}\n P0 ;\n NOP ;\nexists true\n',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    with no_hang(), pytest.raises(LitmusError) as caught:
        run(HOSTILE[name], "input")
    assert caught.value.message.isprintable() and caught.value.line >= 1


@pytest.mark.parametrize(
    "mnemonic",
    ["THREADS", "HANDLERS", "VALUES", "ARITHMETIC", "CONDITIONAL", "INDIRECT", "TARGET", "_INIT__", "_DICT__"],
)
def test_a_mnemonic_names_no_other_member_of_the_compiler(mnemonic: str) -> None:
    assert hasattr(Compiler, f"_{mnemonic.lower()}") or mnemonic in ("THREADS", "HANDLERS", "VALUES")
    with pytest.raises(LitmusError, match="unsupported"):
        run(HEAD % (f"{mnemonic} X0,X1", "true"), "input")


def test_each_mnemonic_has_its_method() -> None:
    for mnemonic in _BUILT:
        assert callable(getattr(Compiler, f"_{mnemonic.lower()}"))


@pytest.mark.parametrize(
    ("instruction", "amount", "expected"),
    [
        ("LSL X0,X1,X2", 1 << 40, 3),
        ("LSL X0,X1,X2", 65, 6),
        ("LSL W0,W1,W2", 33, 6),
        ("LSR X0,X1,X2", 65, 1),
        ("LSR W0,W1,W2", 32, 3),
    ],
)
def test_a_shift_by_a_register_takes_it_modulo_the_width(instruction: str, amount: int, expected: int) -> None:
    """LSLV and LSRV: a test that shifts by 2 ** 40 must not ask for a number of that many bits."""
    text = f"AArch64 X\n{{0:X1=3; uint64_t 0:X2={amount};}}\n P0 ;\n {instruction} ;\nforall 0:X0={expected}\n"
    assert run(text, "input").ok
