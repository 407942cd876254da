"""fuzzvm.compiled.arm64.operands: the disassembler's text."""

from __future__ import annotations

import pytest

from fuzzvm.compiled.arm64.operands import Extension, Immediate, Memory, Name, OperandError, Register, parse
from fuzzvm.compiled.arm64.registers import SP

X1, W2 = Register(1, 64), Register(2, 32)


@pytest.mark.parametrize(
    ("text", "operands"),
    [
        ("", ()),
        ("x1, w2", (X1, W2)),
        ("xzr, wsp", (Register(None, 64), Register(SP, 32))),
        ("x1, #-0x10", (X1, Immediate(-16))),
        ("x1, x1, w2, sxtw #2", (X1, X1, W2, Extension("sxtw", 2))),
        ("x1, x1, w2, uxtb", (X1, X1, W2, Extension("uxtb", 0))),
        ("w2, [x1]", (W2, Memory(X1, None, None, False))),
        ("w2, [x1, #8]!", (W2, Memory(X1, Immediate(8), None, True))),
        ("w2, [x1], #8", (W2, Memory(X1, None, None, False), Immediate(8))),
        ("w2, [x1, w2, uxtw #2]", (W2, Memory(X1, W2, Extension("uxtw", 2), False))),
        ("x1, sp_el0", (X1, Name("sp_el0"))),
        ("ishst", (Name("ishst"),)),
    ],
)
def test_text_is_read(text: str, operands: tuple[object, ...]) -> None:
    assert parse(text) == operands


@pytest.mark.parametrize(
    "text",
    [
        *("x31", "q0", "v0.4s", "{v0.8b}", "[w2]", "[xzr]", "[x1, lsl #2]", "[x1, #8, lsl #2]", "[x1, x1, x1]", "#"),
        *("x1,w2", "[x1", "#1.0", "X1", "x1, ", "=label"),
    ],
)
def test_text_that_is_not_known_is_refused(text: str) -> None:
    # a vector register reads as a name, which no instruction takes for a register
    with pytest.raises(OperandError):
        if Name in map(type, parse(text)):
            raise OperandError(text)
