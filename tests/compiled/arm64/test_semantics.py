"""fuzzvm.compiled.arm64.semantics: what Unicorn cannot be asked, by hand; the rest is in test_differential."""

from __future__ import annotations

import pytest

from fuzzvm.compiled.arm64 import registers
from fuzzvm.compiled.arm64.semantics import BUILDERS
from fuzzvm.compiled.arm64.semantics.atomics import UPDATES
from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.private import PrivateMemory
from fuzzvm.machine.ops import Order
from tests.compiled.arm64.programs import BASE, STACK_HIGH, STACK_LOW, reader, start


@pytest.mark.parametrize(
    ("word", "old", "operand", "new"),
    [
        (0x38204041, 0x7F, 0x80, 0x7F),  # ldsmaxb w0, w1, [x2]
        (0x38204041, 0x80, 0xFF, 0xFF),
        (0x38205041, 0x7F, 0x80, 0x80),  # ldsminb
        (0x78204041, 0x8000, 1, 1),  # ldsmaxh
        (0x78205041, 0xFFFF, 1, 0xFFFF),  # ldsminh
        (0xB8204041, 1 << 31, 0, 0),  # ldsmax w
        (0xB8205041, 0, 1 << 31, 1 << 31),  # ldsmin w
        (0x38206041, 0x7F, 0x80, 0x80),  # ldumaxb
        (0x38207041, 0x7F, 0x80, 0x7F),  # lduminb
    ],
)
def test_minimum_and_maximum_are_of_the_accessed_width(word: int, old: int, operand: int, new: int) -> None:
    # Unicorn 2.1 takes the signed ones of less than 64 bits for unsigned, in part
    code, x = Code(reader((word,))), start(x0=operand, x2=0x100)
    assert code.run(x, PrivateMemory(STACK_LOW, STACK_HIGH), 1) is Halt.ACCESS
    access = code.access(x)
    assert access.updated((old,)) == (new,)
    code.complete(x, access, old)
    assert x[1] == old


def test_tpidr_el2_is_a_register_of_its_own() -> None:
    # msr tpidr_el2, x1; mrs x0, tpidr_el2
    code, x = Code(reader((0xD51CD041, 0xD53CD040)), {BASE + 8}), start(x1=77, tpidr_el1=1)
    assert code.run(x, PrivateMemory(STACK_LOW, STACK_HIGH), 10) is Halt.STOP
    assert (x[0], x[registers.TPIDR_EL2], x[registers.TPIDR_EL1]) == (77, 77, 1)


ORDERS = {"": Order.PLAIN, "a": Order.ACQUIRE, "l": Order.RELEASE, "al": Order.ACQUIRE_RELEASE}


@pytest.mark.parametrize("ordering", ORDERS)
@pytest.mark.parametrize("name", ["cas", "swp", *(f"ld{update}" for update in UPDATES)])
def test_suffixes_of_atomics_are_their_order(name: str, ordering: str) -> None:
    from fuzzvm.compiled.arm64.operands import parse

    for suffix, size in (("", 4), ("b", 1), ("h", 2)):
        request = BUILDERS[f"{name}{ordering}{suffix}"](parse("w0, w1, [x2]"), BASE).request
        assert request is not None
        assert (request.order, request.size, request.no_return) == (ORDERS[ordering], size, False)
        discarded = parse("wzr, w1, [x2]" if name == "cas" else "w0, wzr, [x2]")
        request = BUILDERS[f"{name}{ordering}{suffix}"](discarded, BASE).request
        assert request is not None
        release = ORDERS[ordering.replace("a", "")]
        assert (request.order, request.no_return) == (release, True)
        if name.startswith("ld") and "a" not in ordering:
            request = BUILDERS[f"st{name[2:]}{ordering}{suffix}"](parse("w0, [x2]"), BASE).request
            assert request is not None
            assert (request.order, request.no_return, request.operation) == (release, True, name[2:])


def test_no_form_with_a_wrong_width_is_built() -> None:
    from fuzzvm.compiled.arm64.operands import OperandError, parse

    for name, text in (
        ("add", "x0, w1, x2"),
        ("add", "x0, x1, w2"),
        ("and", "x0, x1, w2, uxtw"),
        ("ldrb", "x0, [x1]"),
        ("ldrsw", "w0, [x1]"),
        ("strb", "x0, [x1]"),
        ("ldp", "x0, w1, [x2]"),
        ("ldarb", "x0, [x1]"),
        ("stxr", "x0, x1, [x2]"),
        ("casb", "x0, x1, [x2]"),
        ("casp", "x1, x2, x4, x5, [x6]"),
        ("ldadd", "x0, w1, [x2]"),
        ("ldxr", "x0, [x1, #8]"),
        ("smull", "x0, x1, x2"),
        ("sxtw", "w0, w1"),
        ("rev32", "w0, w1"),
        ("lsl", "w0, w1, #32"),
        ("ubfx", "w0, w1, #30, #3"),
        ("tbz", "w0, #32, #0x1000"),
        ("br", "w0"),
        ("cset", "x0, al"),
        ("ldr", "x0, [x1, x2, lsl #2]"),
        ("ldr", "x0, [x1, w2, lsl #3]"),
        ("ldr", "x0, [x1, w2, sxtb]"),
        ("mrs", "x0, s3_0_c15_c2_0"),
        ("dmb", "#3"),
        ("dc", "zva, x0"),
    ):
        with pytest.raises(OperandError):
            BUILDERS[name](parse(text), BASE)
