"""The semantics against Unicorn, instruction by instruction; see harnesses/x86_64.

The long form is `python -m harnesses.x86_64.differential --instructions 1000000`.
"""

from __future__ import annotations

import random

import pytest

from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.generate import Tracking
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from fuzzvm.compiled.isa.slots import PC
from fuzzvm.compiled.x86_64 import registers
from fuzzvm.compiled.x86_64.decode import decode
from fuzzvm.compiled.x86_64.registers import FLAG_BITS, FLAGS, UNDEFINED
from fuzzvm.compiled.x86_64.semantics import BUILDERS
from harnesses.window import WINDOW_SIZE, AllPrivate, AllPrivateTracked, Report, Window
from harnesses.x86_64.differential import compare
from harnesses.x86_64.encodings import KINDS
from harnesses.x86_64.oracle import COMPARED, Oracle


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.mark.parametrize("kind", KINDS)
def test_random_instructions_of_each_kind_do_what_they_do_in_unicorn(oracle: Oracle, kind: str) -> None:
    draw, report = random.Random(kind), Report()
    for _ in range(15):
        compare(oracle, KINDS[kind](draw), draw, 3, report)
    assert report.mismatches == {}
    assert report.forms.total() > 10


@pytest.mark.parametrize(
    ("mnemonic", "other", "kind"),
    [
        ("sub", "sbb", "alu"),
        ("and", "or", "alu, immediate"),
        ("shr", "sar", "shift"),
        ("inc", "dec", "inc, dec"),
        ("movzx", "movsx", "extend"),
        ("seta", "setae", "set"),
        ("cmovl", "cmovb", "cmov"),
        ("bts", "btc", "bit"),
        ("jg", "jge", "branch"),
        ("lock or", "lock and", "locked alu"),
    ],
)
def test_one_instruction_taken_for_another_is_found(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, mnemonic: str, other: str, kind: str
) -> None:
    monkeypatch.setitem(BUILDERS, mnemonic, BUILDERS[other])  # type: ignore[arg-type]
    draw, report = random.Random(1), Report()
    for _ in range(1500):
        compare(oracle, KINDS[kind](draw), draw, 3, report)
        if report.mismatches:
            break
    assert report.mismatches and all(form.startswith(f"{mnemonic} ") for form in report.mismatches)


BLOCK = ("alu", "alu, immediate", "test", "inc, dec", "not, neg", "cmov", "set", "extend")
"""Kinds that leave no flag undefined that a condition reads."""
CODE = 0x1041_0000


def straight_code(draw: random.Random) -> tuple[bytes, dict[int, Instruction]]:
    """Return instructions on registers alone: many write flags, which some of the next read and others overwrite."""
    code, steps = b"", dict[int, Instruction]()
    while len(steps) < 16:
        drawn = KINDS[draw.choice(BLOCK)](draw)
        found = _steps(drawn, CODE + len(code))
        if len(found) != 1 or found[0].request is not None:
            continue
        first = found[0]
        steps[first.address] = first
        code += drawn[: first.size]
    return code, steps


def _steps(code: bytes, address: int) -> tuple[Instruction, ...]:
    """Return the steps of an instruction, none of one that is not supported."""
    try:
        return decode(code, address)
    except UnsupportedInstructionError:
        return ()


@pytest.mark.always
@pytest.mark.parametrize("seed", range(12))
def test_a_block_does_what_its_instructions_do_in_unicorn(oracle: Oracle, seed: int) -> None:
    """Flags that the block leaves out are those that nothing reads."""
    draw = random.Random(seed)
    code, steps = straight_code(draw)
    x = [draw.getrandbits(64) for _ in range(registers.COUNT)]
    for slot in FLAG_BITS:
        x[slot] = draw.randrange(2)
    x[registers.GS_BASE], x[PC] = 0, CODE
    before = draw.randbytes(WINDOW_SIZE)
    oracle.put_code(CODE, code)
    oracle.put(x, before)
    expected, _ = oracle.step(CODE, len(code), repeats=True)
    for tracking in (None, Tracking()):
        found, window = list(x), Window(before)
        run = Code(steps.__getitem__, {CODE + len(code)}, tracking, flags=frozenset(FLAGS))
        if tracking is None:
            halt = run.run(found, AllPrivate(window), 10)
        else:
            halt = run.run_tracked(found, [0] * len(x), [0] * len(x), AllPrivateTracked(window), 10)
        assert halt is Halt.STOP
        differ = [
            registers.NAMES[slot]
            for slot, value in zip(COMPARED, expected, strict=True)
            if found[slot] != value and not (slot in FLAGS and found[slot] == UNDEFINED)
        ]
        assert differ == []
