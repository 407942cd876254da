"""fuzzvm.compiled.isa.engine: runs, accesses, stops, and what is refused."""

from __future__ import annotations

import pytest

from fuzzvm.compiled.arm64 import registers
from fuzzvm.compiled.arm64.decode import decode
from fuzzvm.compiled.isa.effects import Kind
from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.generate import JOIN_MAX, Tracking
from fuzzvm.compiled.isa.instruction import UnsupportedInstructionError
from fuzzvm.compiled.isa.private import PrivateMemory, TrackedMemory, UnwrittenMemoryError
from tests.compiled.arm64.programs import BASE, COUNT_DOWN, RETURN, SPILL, STACK_HIGH, STACK_LOW, reader, start

PC = registers.PC
FADD = 0x1E622820


def stack() -> PrivateMemory:
    return PrivateMemory(STACK_LOW, STACK_HIGH)


def test_a_run_ends_at_a_stop_with_the_result() -> None:
    code, x = Code(reader(COUNT_DOWN), {RETURN}), start(x0=5)
    assert code.run(x, stack(), 100) is Halt.STOP
    assert (x[PC], x[0], x[registers.FLAGS]) == (RETURN, 0, 6)


def test_a_run_of_too_many_blocks_can_be_continued() -> None:
    code, x = Code(reader(COUNT_DOWN), {RETURN}), start(x0=5)
    assert code.run(x, stack(), 2) is Halt.LIMIT
    assert (x[PC], x[0]) == (BASE, 3)
    assert code.run(x, stack(), 100) is Halt.STOP


def test_private_memory_is_local_and_other_memory_an_access() -> None:
    code, x, memory = Code(reader(SPILL), {RETURN}), start(x0=0x5_0000_0008, x29=7), stack()
    assert code.run(x, memory, 100) is Halt.ACCESS
    assert x[PC] == BASE + 16
    access = code.access(x)
    assert (access.request.kind, access.address, access.request.size) == (Kind.LOAD, 0x5_0000_0008, 8)
    assert x[1] == 8
    code.complete(x, access, 34)
    assert code.run(x, memory, 100) is Halt.STOP
    assert (x[0], x[29], x[registers.SP]) == (42, 7, STACK_HIGH)


def test_dependencies_are_carried_through_registers_and_private_memory() -> None:
    code, x = Code(reader(SPILL), {RETURN}, Tracking()), start(x0=0x5_0000_0008)
    views, picks = [0] * registers.COUNT, [0] * registers.COUNT
    views[0], picks[0] = 0b1, 0b11
    memory = TrackedMemory(STACK_LOW, STACK_HIGH, lambda a, b: a | b)
    assert code.run_tracked(x, views, picks, memory, 100) is Halt.ACCESS
    assert (views[1], picks[1]) == (0b1, 0b11)
    access = code.access(x)
    code.complete_tracked(x, views, picks, access, 34, 0b100, 0b1000)
    assert code.run_tracked(x, views, picks, memory, 100) is Halt.STOP
    assert (x[0], views[0], picks[0]) == (42, 0b101, 0b1011)
    assert (views[29], picks[29], picks[PC]) == (0, 0, 0)


def test_branches_gather_control_dependencies() -> None:
    code, x = Code(reader(COUNT_DOWN), {RETURN}, Tracking(JOIN_MAX)), start(x0=2)
    views, picks = [0] * registers.COUNT, [0] * registers.COUNT
    views[0], picks[0], picks[registers.LINK] = 3, 5, 4
    code.run_tracked(x, views, picks, TrackedMemory(STACK_LOW, STACK_HIGH, max), 100)
    assert (views[registers.FLAGS], picks[registers.FLAGS]) == (3, 5)
    assert (views[PC], picks[PC]) == (0, 5)


def test_an_address_in_private_memory_is_a_dependency_too() -> None:
    # str x1, [sp, x0]; ldr x2, [sp, x3]
    code = Code(reader((0xF8206BE1, 0xF8636BE2)), {BASE + 8}, Tracking())
    x = start(x0=0, x1=9, x3=0, sp=STACK_LOW)
    views = [0] * registers.COUNT
    views[0], views[1], views[3] = 1, 2, 4
    memory = TrackedMemory(STACK_LOW, STACK_HIGH, lambda a, b: a | b)
    assert code.run_tracked(x, views, list(views), memory, 10) is Halt.STOP
    assert (x[2], views[2]) == (9, 7)


def test_a_pair_is_private_only_as_a_whole() -> None:
    # stp x1, x2, [x0]; the second element lies above the stack
    code, memory = Code(reader((0xA9000801,))), stack()
    x = start(x0=STACK_HIGH - 8, x1=1, x2=2)
    assert code.run(x, memory, 1) is Halt.ACCESS
    assert code.access(x).values == (1, 2)
    assert memory.load(STACK_HIGH - 8, 8) == 1


def test_stops_within_straight_code_end_a_block() -> None:
    code, x = Code(reader(SPILL), {BASE + 8}), start(x0=1)
    assert code.run(x, stack(), 100) is Halt.STOP
    assert x[PC] == BASE + 8


def test_the_stop_at_the_last_block_is_seen_within_the_limit() -> None:
    code, x = Code(reader(COUNT_DOWN), {RETURN}), start(x0=1)
    assert code.run(x, stack(), 2) is Halt.STOP


def test_an_unsupported_instruction_is_refused_where_it_is_reached_and_not_before() -> None:
    # cbz x0, .+8; fadd; ret
    code = Code(reader((0xB4000040, FADD, 0xD65F03C0), "vmap"), {RETURN})
    x = start(x0=0)
    assert code.run(x, stack(), 100) is Halt.STOP
    x = start(x0=1)
    with pytest.raises(UnsupportedInstructionError, match=r"fadd d0, d1, d2.*in vmap"):
        code.run(x, stack(), 100)
    assert x[PC] == BASE + 4


def test_the_code_before_an_unsupported_instruction_is_run() -> None:
    # mov x0, #1; fadd
    code, x = Code(reader((0xD2800020, FADD))), start()
    with pytest.raises(UnsupportedInstructionError):
        code.run(x, stack(), 100)
    assert (x[0], x[PC]) == (1, BASE + 4)


def test_code_that_is_not_there_raises_what_its_reader_raises() -> None:
    # br x0
    code = Code(reader((0xD61F0000,)))
    for target in (0x7777_0000, 0x7777_0001, BASE + 2):
        x = start(x0=target)
        with pytest.raises((KeyError, UnsupportedInstructionError)):
            code.run(x, stack(), 100)
        assert x[PC] == target


def test_a_misaligned_target_is_not_taken_for_an_access() -> None:
    code, x = Code(reader((0xD61F0000, 0xD503201F))), start(x0=BASE + 5)
    with pytest.raises((UnsupportedInstructionError, KeyError)):
        code.run(x, stack(), 100)


@pytest.mark.parametrize("tracked", [False, True])
def test_patched_code_is_run_as_it_was_fetched(tracked: bool) -> None:
    # a nop that is patched to b .+8, and to str x0, [x1]
    code = Code(reader((0xD503201F, 0xD65F03C0)), {BASE}, Tracking() if tracked else None)
    none = [0] * registers.COUNT
    for word, pc, halt in (
        (0xD503201F, BASE + 4, Halt.LIMIT),
        (0x14000002, BASE + 8, Halt.LIMIT),
        (0xF9000020, BASE, Halt.ACCESS),
    ):
        x, fetched = start(x0=5, x1=0x100), decode(word, BASE)
        if tracked:
            memory = TrackedMemory(STACK_LOW, STACK_HIGH, max)
            assert code.step_tracked(x, list(none), list(none), memory, fetched) is halt
        else:
            assert code.step(x, stack(), fetched) is halt
        assert x[PC] == pc
        if halt is Halt.ACCESS:
            assert code.access(x, fetched).values == (5,)


def test_an_error_of_private_memory_names_its_instruction() -> None:
    # mov x0, #1; ldr x1, [sp]; mov x0, #2; ret: nothing has been written there
    words = (0xD2800020, 0xF94003E1, 0xD2800040, 0xD65F03C0)
    x = start(sp=STACK_LOW)
    with pytest.raises(UnwrittenMemoryError):
        Code(reader(words), {RETURN}).run(x, stack(), 10)
    assert (x[PC], x[0]) == (BASE + 4, 1)


@pytest.mark.parametrize(
    ("word", "bad"),
    [
        (0xF9400002, (None, -1, 1 << 64, (1,), (1, 2), "1")),  # ldr x2, [x0]
        (0x39400002, (None, 256)),  # ldrb w2, [x0]
        (0xA9400402, (None, 1, (1,), (1, 2, 3), (1, 1 << 64))),  # ldp x2, x1, [x0]
        (0xF9000002, (0, (0,))),  # str x2, [x0]
        (0xC8017C02, (None, 2, (0,))),  # stxr w1, x2, [x0]
        (0xD5033FBF, (0,)),  # dmb sy
        (0xD5382040, (None, 1 << 64)),  # mrs x0, tcr_el1
    ],
)
def test_a_response_that_cannot_be_is_refused(word: int, bad: tuple[object, ...]) -> None:
    code, x = Code(reader((word,))), start()
    assert code.run(x, stack(), 1) is Halt.ACCESS
    access = code.access(x)
    for response in bad:
        before = list(x)
        with pytest.raises(ValueError, match="is no response to"):
            code.complete(x, access, response)  # type: ignore[arg-type]
        assert x == before


def test_an_exclusive_pair_takes_one_status() -> None:
    # stxp w0, x1, x2, [x3]
    code, x = Code(reader((0xC8200861,))), start(x1=1, x2=2, x3=0x100)
    code.run(x, stack(), 1)
    code.complete(x, code.access(x), 1)
    assert (x[0], x[PC]) == (1, BASE + 4)


def test_alignment_counts_pairs_of_exclusives_as_one() -> None:
    aligned = {}
    for name, word in (("ldp x2, x1, [x0]", 0xA9400402), ("ldxp x2, x1, [x0]", 0xC87F0402)):
        code, x = Code(reader((word,))), start(x0=0x108)
        code.run(x, stack(), 1)
        aligned[name] = code.access(x).is_aligned
    assert aligned == {"ldp x2, x1, [x0]": True, "ldxp x2, x1, [x0]": False}
