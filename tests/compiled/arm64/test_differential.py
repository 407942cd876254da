"""The semantics against Unicorn, instruction by instruction and block by block; see harnesses/arm64.

The long form is `python -m harnesses.arm64.differential --instructions 1000000`.
"""

from __future__ import annotations

import random

import pytest

from fuzzvm.compiled.arm64 import registers
from fuzzvm.compiled.arm64.decode import decode, fetching
from fuzzvm.compiled.arm64.semantics import BUILDERS
from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.generate import Tracking
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from harnesses.arm64.differential import compare
from harnesses.arm64.encodings import PATTERNS, word
from harnesses.arm64.oracle import COMPARED, Oracle
from harnesses.window import WINDOW, WINDOW_SIZE, AllPrivate, AllPrivateTracked, Report, Window


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.mark.parametrize("name", PATTERNS)
def test_random_instructions_of_each_class_do_what_they_do_in_unicorn(oracle: Oracle, name: str) -> None:
    draw, report = random.Random(name), Report()
    for _ in range(80):
        compare(oracle, word(PATTERNS[name], draw), draw, 2, report)
    assert report.mismatches == {}
    assert report.forms.total() > 20 or name in RARE


RARE = {"any", "break", "write to PSTATE", "maintenance", "TLB maintenance", "system register", "TPIDR"}
"""Classes of which Unicorn, or this machine, knows few members."""


@pytest.mark.parametrize(
    ("mnemonic", "other", "words"),
    [
        ("eor", "orr", "logical register"),
        ("adds", "subs", "add, sub register"),
        ("csinc", "csel", "select conditionally"),
        ("b.hi", "b.hs", "branch conditionally"),
        ("ldrsb", "ldrb", "load, store unsigned offset"),
        ("strh", "strb", "load, store unsigned offset"),
        ("ldadd", "ldset", "atomic"),
        ("asr", "lsr", "shift by register"),
        ("smulh", "umulh", "multiply"),
        ("ccmp", "ccmn", "compare conditionally"),
    ],
)
def test_one_instruction_taken_for_another_is_found(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, mnemonic: str, other: str, words: str
) -> None:
    monkeypatch.setitem(BUILDERS, mnemonic, BUILDERS[other])
    draw, report = random.Random(1), Report()
    for _ in range(1000):
        compare(oracle, word(PATTERNS[words], draw), draw, 2, report)
        if report.mismatches:
            break
    assert {form.split(" ")[0] for form in report.mismatches} == {mnemonic}


BLOCKS = (
    *("add, sub register", "add, sub carry", "logical immediate", "select conditionally", "compare conditionally"),
    *("bit field", "multiply", "move wide", "load, store unscaled", "load, store pair", "load, store unsigned offset"),
)


def straight_code(draw: random.Random, x: list[int]) -> list[Instruction]:
    """Return local instructions, and loads and stores in the window by way of the stack pointer."""
    code: list[Instruction] = []
    while len(code) < 16:
        pattern = draw.choice(BLOCKS)
        drawn = word(PATTERNS[pattern], draw)
        if pattern.startswith("load"):
            drawn |= 31 << 5
        try:
            instruction = decode(drawn, x[registers.PC] + 4 * len(code))
        except UnsupportedInstructionError:
            continue
        request = instruction.request
        if registers.SP in instruction.writes or (request is None) == pattern.startswith("load"):
            continue
        if request is not None:
            at = [*x]
            at[registers.PC] = instruction.address
            address = Code({instruction.address: instruction}.__getitem__).access(at).address
            assert address is not None
            if not request.may_be_private or not WINDOW <= address <= WINDOW + WINDOW_SIZE - 16:
                continue
        code.append(instruction)
    return code


@pytest.mark.parametrize("seed", range(60))
def test_a_block_does_what_its_instructions_do_in_unicorn(oracle: Oracle, seed: int) -> None:
    draw = random.Random(seed)
    x = [draw.getrandbits(64) for _ in range(registers.COUNT)]
    x[registers.FLAGS], x[registers.DAIF] = draw.randrange(16), 0
    x[registers.SP], x[registers.PC] = WINDOW + WINDOW_SIZE // 2, WINDOW + 0x10000
    begin = x[registers.PC]
    instructions = straight_code(draw, x)
    words = {instruction.address: instruction.word for instruction in instructions}
    before = draw.randbytes(WINDOW_SIZE)
    for address, drawn in words.items():
        oracle.put_code(address, drawn)
    oracle.put(x, before)
    expected, after = oracle.step(begin, len(words))
    stop = begin + 4 * len(words)
    plain, tracked = list(x), list(x)
    window = Window(before)
    assert Code(fetching(words.__getitem__), {stop}).run(plain, AllPrivate(window), 10) is Halt.STOP
    assert [plain[slot] for slot in COMPARED] == expected
    assert window.data == after
    window = Window(before)
    views, picks = [0] * registers.COUNT, [0] * registers.COUNT
    code = Code(fetching(words.__getitem__), {stop}, Tracking())
    assert code.run_tracked(tracked, views, picks, AllPrivateTracked(window), 10) is Halt.STOP
    assert (tracked, window.data) == (plain, after)
