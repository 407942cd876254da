"""fuzzvm.compiled.x86_64: steps of instructions, undefined flags, and what is refused."""

from __future__ import annotations

import pytest

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.isa.effects import Flow, Kind
from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.helpers import UndefinedFlagError
from fuzzvm.compiled.isa.instruction import UnsupportedInstructionError
from fuzzvm.compiled.isa.private import PrivateMemory
from fuzzvm.compiled.isa.slots import PC, SP
from fuzzvm.compiled.x86_64.decode import decode
from fuzzvm.compiled.x86_64.registers import CF, COUNT, GS_BASE, IF, NAMES, RAX, RCX, TEMP, UNDEFINED, ZF
from fuzzvm.machine.ops import Order

BASE = 0x40_0000


def run(code: bytes, stack: int = 0x8100, **values: int) -> list[int]:
    """Return the register file after some code, on a stack of its own."""
    steps, at = {}, BASE
    while at < BASE + len(code):
        found = decode(code[at - BASE :], at)
        steps.update((step.address, step) for step in found)
        at = found[-1].following
    x = [0] * COUNT
    x[PC], x[SP] = BASE, stack
    for name, value in values.items():
        x[NAMES.index(name)] = value
    memory = PrivateMemory(0x8000, 0x9000)
    for address in range(0x8000, 0x9000, 8):
        memory.store(address, 8, address)
    assert Code(steps.__getitem__, {at}).run(x, memory, 100) is Halt.STOP
    return x


def test_an_instruction_that_accesses_memory_twice_is_two_steps() -> None:
    load, store = decode(bytes.fromhex("48 01 03"), BASE)  # add [rbx], rax
    assert load.request is not None and store.request is not None
    assert (load.address, load.size, store.address, store.size) == (BASE, 1, BASE + 1, 2)
    assert (load.request.kind, store.request.kind) == (Kind.LOAD, Kind.STORE)
    assert load.writes == {TEMP} and TEMP in store.reads and store.following == BASE + 3


def test_a_locked_instruction_is_one_step_and_a_full_barrier() -> None:
    (locked,) = decode(bytes.fromhex("f0 48 01 03"), BASE)  # lock add [rbx], rax
    (exchange,) = decode(bytes.fromhex("48 87 03"), BASE)  # xchg [rbx], rax, which is locked as it stands
    for one in (locked, exchange):
        assert one.request is not None and one.request.kind is Kind.ATOMIC
        assert one.request.full_barrier and one.request.order is Order.ACQUIRE_RELEASE


def test_a_call_and_its_return_go_by_the_stack() -> None:
    (call,) = decode(bytes.fromhex("e8 00 01 00 00"), BASE)
    (back,) = decode(b"\xc3", BASE)
    assert call.branch is not None and back.branch is not None
    assert (call.branch.flow, back.branch.flow) == (Flow.CALL, Flow.RETURN)
    # call .+0; pop rax
    x = run(bytes.fromhex("e8 00 00 00 00 58"))
    assert x[RAX] == BASE + 5 and x[SP] == 0x8100


def test_per_cpu_accesses_are_relative_to_gs() -> None:
    (load,) = decode(bytes.fromhex("65 48 8b 05 00 01 00 00"), BASE)  # mov rax, gs:[rip + 0x100]
    assert load.address_reads == {GS_BASE}
    assert run(bytes.fromhex("65 48 8b 05 00 01 00 00"), gs_base=(0x8000 - BASE - 0x108) % (1 << 64))[RAX] == 0x8000


@pytest.mark.parametrize(
    ("code", "defined"),
    [
        ("48 6b c0 03", {CF, 21}),  # imul: CF and OF alone
        ("48 0f a3 c8", {CF, ZF}),  # bt: ZF stays
        ("48 21 c8", {CF, 17, ZF, 20, 21}),  # and: all but AF
        ("48 c1 e0 04", {CF, 17, ZF, 20}),  # shl by 4: OF for 1 only
    ],
)
def test_flags_that_are_undefined_are_known_to_be(code: str, defined: set[int]) -> None:
    x = run(bytes.fromhex(code), rax=5, rcx=3)
    assert {slot for slot in range(16, 22) if x[slot] != UNDEFINED} == defined


def test_reading_an_undefined_flag_is_refused_by_its_name() -> None:
    # imul rax, rax, 3; sete al
    with pytest.raises(UndefinedFlagError, match="zf is read"):
        run(bytes.fromhex("48 6b c0 03 0f 94 c0"), rax=5)
    # a shift by 0 leaves the flags of what was before
    assert run(bytes.fromhex("48 39 c0 48 d3 e0 0f 94 c2"), rax=5, rcx=64)[2] == 1


def test_a_register_with_itself_gives_zero_that_depends_on_nothing() -> None:
    (xor,) = decode(bytes.fromhex("31 c0"), BASE)
    assert not xor.reads and xor.writes >= {RAX, ZF}


def test_flags_are_saved_and_restored() -> None:
    # pushfq; cmp rax, rax; popfq
    x = run(bytes.fromhex("9c 48 39 c0 9d"), cf=1, zf=0)
    assert (x[CF], x[ZF], x[IF]) == (1, 0, 0)
    # sti; pushfq; pop rax
    assert run(bytes.fromhex("fb 9c 58"))[RAX] == 0x202


def test_a_division_that_traps_is_refused() -> None:
    with pytest.raises(ImageError, match="a division of 0x5 by 0x0, which traps"):
        run(bytes.fromhex("48 f7 f1"), rax=5)


def test_repeated_stores_go_on_until_the_count_is_zero() -> None:
    x = run(bytes.fromhex("f3 48 ab"), rdi=0x8000, rcx=3, rax=7)
    assert (x[RCX], x[7]) == (0, 0x8018)
    assert run(bytes.fromhex("f3 48 a5"), rdi=0x8000, rsi=0x8100, rcx=2)[6] == 0x8110


@pytest.mark.parametrize(
    "code",
    [
        "0f a2",  # cpuid
        "f4",  # hlt
        "48 f7 f9",  # idiv rcx
        "48 0f c7 0b",  # cmpxchg8b
        "66 ff e0",  # jmp rax, with a prefix that CPUs take in two ways
        "64 48 8b 00",  # mov rax, fs:[rax]
        "67 8b 00",  # mov eax, [eax]
        "f3 a4",  # rep movsb: three steps in two bytes
        "48 0f b1 0b",  # cmpxchg without a lock
        "0f 10 00",  # movups
    ],
)
def test_what_is_not_supported_is_refused(code: str) -> None:
    with pytest.raises(UnsupportedInstructionError):
        decode(bytes.fromhex(code), BASE, "vmap")
