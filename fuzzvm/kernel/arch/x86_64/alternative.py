"""Patching text while other CPUs execute it (arch/x86/kernel/alternative.c, jump_label.c; Linux 6.12).

A patched site is an instruction of two bytes, the first one the low byte of its word: a NOP, which the model writes as
0, or a JMP. A CPU fetches each byte by itself and may have it from before the last patch until it serialises (Intel SDM
vol. 3A 8.1.3, "Handling Self- and Cross-Modifying Code"): so nobody may ever see the first byte of one and the second
of the other. That is what the breakpoint is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fuzzvm.kernel.errors import BROKEN_INSTRUCTION
from fuzzvm.kernel.interrupts import csd_lock_wait
from fuzzvm.kernel.jump_label import BRANCH, NOP
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Await, Barrier, Fence, Fetch, InterruptAll, Load, Order, Rmw, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

JMP8 = 0x01EB
"""The bytes eb 01: a jump by one."""
INT3 = 0xCC
FIRST_BYTE = 0xFF


class Poke(NamedTuple):
    """What is being patched, or was last: struct bp_patching_desc and its text_poke_loc together.

    `number` says the how manieth patch it is, `refs` how many look at it: 0 when nothing is patched.
    """

    number: int
    sites: tuple[Address, ...]
    opcode: int
    refs: int

    def __str__(self) -> str:
        return f"patch {self.number}, {self.refs} references"


@dataclass(frozen=True, slots=True)
class _Begin:
    sites: tuple[Address, ...]
    opcode: int

    def __call__(self, last: Poke | int) -> Poke:
        return Poke(last.number + 1 if isinstance(last, Poke) else 1, self.sites, self.opcode, 1)


@dataclass(frozen=True, slots=True)
class _TryGet:
    def __call__(self, poke: Poke) -> Poke:
        return poke._replace(refs=poke.refs + 1) if poke.refs else poke


@dataclass(frozen=True, slots=True)
class _Put:
    def __call__(self, poke: Poke) -> Poke:
        return poke._replace(refs=poke.refs - 1)


@dataclass(frozen=True, slots=True)
class _Unused:
    def __call__(self, poke: Poke) -> bool:
        return poke.refs == 0

    def blocked_by(self, poke: Poke) -> tuple[int, ...]:
        # a CPU in its breakpoint handler waits for nobody
        return ()


def text_poke(k: Kernel, addr: Address, code: int, point: str = "") -> Steps[None]:
    """Write code through a mapping of its own; that one is left by a write to CR3, which serialises this CPU."""
    yield Store(addr, code, Order.PLAIN, point)
    yield Fence(Barrier.ISB)


def text_poke_bp_batch(k: Kernel, bp_desc: Address, sites: tuple[Address, ...], opcode: int) -> Steps[None]:
    """Patch locations together: a breakpoint into each, then each one's second byte, then its first one.

    After each of the three every CPU is made to serialise (text_poke_sync). The callers' jump_label_mutex stands for
    text_mutex.
    """
    # vec, then refs by a release that pairs with try_get_desc(): here one word
    yield Rmw(bp_desc, _Begin(sites, opcode), Order.RELEASE)
    index = 0
    while index < len(sites):
        old = yield Load(sites[index])
        yield from text_poke(k, sites[index], old & ~FIRST_BYTE | INT3)
        index += 1
    # text_poke_sync()
    yield from csd_lock_wait(k)
    yield InterruptAll("poke-sync-1")
    index = 0
    while index < len(sites):
        yield from text_poke(k, sites[index], opcode & ~FIRST_BYTE | INT3)
        index += 1
    # text_poke_sync()
    yield from csd_lock_wait(k)
    yield InterruptAll("poke-sync-2")
    index = 0
    while index < len(sites):
        yield from text_poke(k, sites[index], opcode, "poke-store")
        index += 1
    # text_poke_sync()
    yield from csd_lock_wait(k)
    yield InterruptAll("poke-sync-3")
    poke = yield Rmw(bp_desc, _Put(), Order.ACQUIRE_RELEASE)
    if poke.refs != 1:
        yield Await(bp_desc, _Unused(), Order.ACQUIRE)


def poke_int3_handler(k: Kernel, bp_desc: Address, site: Address) -> Steps[int]:
    """Return what the breakpoint at a site stands for: the new instruction, from the first step of its patch on.

    A breakpoint is handled with interrupts off, so that the IPI of a patch waits for it. In the model an IPI waits for
    nobody; a patch that has ended meanwhile is one that the fetch came too late for, and so this fetches again.
    Raises ModelError broken-instruction where there is a breakpoint though nothing is patched: the kernel dies of it.
    """
    while True:
        # try_get_desc()
        poke = yield Rmw(bp_desc, _TryGet(), Order.ACQUIRE_RELEASE)
        if poke.refs:
            break
        instruction = yield Fetch(site)
        if instruction & FIRST_BYTE != INT3:
            return decode(k, instruction)
        now = yield Load(bp_desc)
        if now == poke:
            raise ModelError(BROKEN_INSTRUCTION, f"CPU {k.cpu} hits a breakpoint, and nothing is being patched")
    # put_desc()
    yield Rmw(bp_desc, _Put(), Order.ACQUIRE_RELEASE)
    # IRET serialises
    yield Fence(Barrier.ISB)
    if site not in poke.sites:
        raise ModelError(BROKEN_INSTRUCTION, f"CPU {k.cpu} hits a breakpoint at a site that is not being patched")
    return decode(k, poke.opcode)


def execute(k: Kernel, bp_desc: Address, site: Address, instruction: int) -> Steps[int]:
    """Return NOP or BRANCH for the two bytes that a CPU has fetched at a site. Raises ModelError broken-instruction."""
    if instruction & FIRST_BYTE == INT3:
        return (yield from poke_int3_handler(k, bp_desc, site))
    return decode(k, instruction)


def encode(instruction: int) -> int:
    """Return the bytes of NOP or BRANCH."""
    return JMP8 if instruction == BRANCH else NOP


def decode(k: Kernel, code: int) -> int:
    """Return whether two bytes are NOP or BRANCH. Raises ModelError broken-instruction where they are neither."""
    if code == JMP8:
        return BRANCH
    if code == NOP:
        return NOP
    message = f"CPU {k.cpu} executes the first byte of one instruction and the second of another"
    raise ModelError(BROKEN_INSTRUCTION, message)
