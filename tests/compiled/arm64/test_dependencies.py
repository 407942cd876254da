"""What instructions depend on: by changing a register and looking what else changes, and against a slow reference."""

from __future__ import annotations

import random

import pytest

from fuzzvm.compiled.arm64 import registers
from fuzzvm.compiled.arm64.decode import decode
from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.generate import JOIN_MAX, Tracking
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from harnesses.arm64.differential import NonePrivate
from harnesses.arm64.encodings import PATTERNS, word
from tests.compiled.arm64.programs import BASE, reader, start
from tests.compiled.arm64.test_decode import ACCESSES, LOCAL, rows

SLOTS = [slot for slot in range(registers.COUNT) if slot != registers.PC]
LIMITS = {registers.FLAGS: 15, registers.DAIF: 0x3C0}


def value(draw: random.Random, slot: int) -> int:
    """Return any value, or one at which flags change."""
    return draw.choice((draw.getrandbits(64), draw.getrandbits(64), 0, registers.MASK64)) & LIMITS.get(
        slot, registers.MASK64
    )


def drawn(draw: random.Random) -> list[int]:
    x = [value(draw, slot) for slot in range(registers.COUNT)]
    x[registers.PC] = BASE
    return x


def changed(x: list[int], slot: int, draw: random.Random) -> list[int]:
    """Return the registers with another value in a slot."""
    other = list(x)
    while other[slot] == x[slot]:
        one_bit = (x[slot] ^ 1 << draw.randrange(64)) & LIMITS.get(slot, registers.MASK64)
        other[slot] = draw.choice((value(draw, slot), one_bit))
    return other


Outcome = tuple[dict[int, int], int, object, object, object]
"""The slots that are written, where the code goes on, and address, values and expected values of an access."""


def outcome(code: Code, instruction: Instruction, x: list[int]) -> Outcome:
    """Return what an instruction makes of registers, given an answer of ones."""
    x = list(x)
    request = instruction.request
    where = values = expected = None
    if code.run(x, NonePrivate(), 1) is Halt.ACCESS:
        access = code.access(x)
        where, values, expected = access.address, access.values, access.expected
        assert request is not None
        response = {0: None, 1: 1, 2: (1, 1)}[request.answers]
        code.complete(x, access, response)  # type: ignore[arg-type]
    return {slot: x[slot] for slot in SLOTS}, x[registers.PC], where, values, expected


def differing(instruction: Instruction, slot: int, before: Outcome, after: Outcome) -> set[str]:
    """Return what differs between two outcomes, a slot that was changed and not written left out."""
    names = {
        registers.NAMES[at]
        for at in SLOTS
        if before[0][at] != after[0][at] and (at != slot or at in instruction.writes)
    }
    parts = zip(("control", "address", "values", "expected"), before[1:], after[1:], strict=True)
    return names | {name for name, old, new in parts if old != new}


def depends(instruction: Instruction, slot: int) -> set[str]:
    """Return what the tables say may change with a slot."""
    names = {registers.NAMES[each.target] for each in instruction.dependencies if slot in each.reads.picks}
    tables = {
        "control": instruction.control_reads,
        "address": instruction.address_reads,
        "values": frozenset().union(*instruction.value_reads),
        "expected": frozenset().union(*instruction.expected_reads),
    }
    return names | {name for name, slots in tables.items() if slot in slots}


@pytest.mark.parametrize("name", PATTERNS)
def test_nothing_changes_with_a_register_that_is_not_read(name: str) -> None:
    draw = random.Random(name)
    for _ in range(40):
        try:
            instruction = decode(word(PATTERNS[name], draw), BASE)
        except UnsupportedInstructionError:
            continue
        code = Code(reader((instruction.word,)), {BASE + 4})
        x = drawn(draw)
        before = outcome(code, instruction, x)
        assert {at for at in SLOTS if before[0][at] != x[at]} <= instruction.writes
        for slot in {*draw.sample(SLOTS, 6), *instruction.reads}:
            after = outcome(code, instruction, changed(x, slot, draw))
            assert differing(instruction, slot, before, after) <= depends(instruction, slot), instruction


@pytest.mark.parametrize("row", [*rows(LOCAL), *rows(ACCESSES)], ids=lambda row: row[1])
def test_everything_that_is_said_to_depend_on_a_register_does(row: list[str]) -> None:
    instruction = decode(int(row[0], 16), BASE)
    draw, code = random.Random(row[1]), Code(reader((instruction.word,)), {BASE + 4})
    for slot in instruction.reads:
        seen: set[str] = set()
        # a bit that is tested is hit once in 64 times
        for _ in range(400):
            x = drawn(draw)
            other = changed(x, slot, draw)
            seen |= differing(instruction, slot, outcome(code, instruction, x), outcome(code, instruction, other))
            if seen == depends(instruction, slot):
                break
        assert seen == depends(instruction, slot)


@pytest.mark.parametrize("seed", range(20))
def test_tracked_code_carries_what_the_tables_say(seed: int) -> None:
    draw = random.Random(seed)
    instructions: list[Instruction] = []
    while len(instructions) < 24:
        name = draw.choice(("add, sub register", "add, sub carry", "bit field", "multiply", "move wide", "one source"))
        try:
            instructions.append(decode(word(PATTERNS[name], draw), BASE + 4 * len(instructions)))
        except UnsupportedInstructionError:
            continue
    stop = BASE + 4 * len(instructions)
    code = reader([instruction.word for instruction in instructions])
    x = drawn(draw)
    sets = [frozenset({slot}) for slot in range(registers.COUNT)]
    found = list(sets)
    tracked = Code(code, {stop}, Tracking(nothing="frozenset()"))
    assert tracked.run_tracked(list(x), found, list(sets), NonePrivate(), 9) is Halt.STOP
    expected = list(sets)
    for instruction in instructions:
        old = list(expected)
        for each in instruction.dependencies:
            expected[each.target] = frozenset().union(*(old[slot] for slot in each.reads.data))
    assert found == expected
    newest = list(range(registers.COUNT))
    latest = Code(code, {stop}, Tracking(JOIN_MAX, "-1"))
    assert latest.run_tracked(list(x), newest, list(newest), NonePrivate(), 9) is Halt.STOP
    assert newest == [max(slots, default=-1) for slots in expected]


@pytest.mark.parametrize(
    ("code", "flags", "view", "pick"),
    [
        (0x9A820020, 4, 1, 0b101),  # csel x0, x1, x2, eq, equal
        (0x9A820020, 0, 2, 0b110),
        (0x9A9F3420, 0, 1, 0b101),  # csinc x0, x1, xzr, lo
        (0x9A9F3420, 2, 0, 0b100),
        (0x1A9F07E0, 4, 0, 0b100),  # cset w0, ne
    ],
)
def test_a_selection_depends_on_what_it_selects(code: int, flags: int, view: int, pick: int) -> None:
    x = start(nzcv=flags)
    views = [0] * registers.COUNT
    views[1], views[2], views[registers.FLAGS] = 1, 2, 4
    picks = list(views)
    Code(reader((code,)), {BASE + 4}, Tracking()).run_tracked(x, views, picks, NonePrivate(), 1)
    assert (views[0], picks[0]) == (view, pick)


@pytest.mark.parametrize(("flags", "view", "pick"), [(4, 0, 4), (0, 1, 5)])
def test_a_conditional_comparison_depends_on_what_it_compares_if_it_does(flags: int, view: int, pick: int) -> None:
    # ccmp x1, #3, #4, ne
    x = start(nzcv=flags)
    views = [0] * registers.COUNT
    views[1], views[registers.FLAGS] = 1, 4
    picks = list(views)
    Code(reader((0xFA431824,)), {BASE + 4}, Tracking()).run_tracked(x, views, picks, NonePrivate(), 1)
    assert (views[registers.FLAGS], picks[registers.FLAGS]) == (view, pick)
