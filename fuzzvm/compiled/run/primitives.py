"""What boundary functions are made of: accesses to the kernel's memory by its addresses, locks, pages, names.

All but the last group are generators: `value = yield from load(c, va)`. Addresses are those of the kernel. What a CPU
has alone (its stack, and words that a scenario gives a call) is accessed at once; all other accesses are steps, and
other CPUs may come between. Operations of the machine that need no address are yielded as they are: `yield
Fence(Barrier.DSB_ISH)` (`machine.ops`).
"""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.isa.access import UPDATES
from fuzzvm.compiled.run.environment import Caller, OwnLoad, OwnStore
from fuzzvm.compiled.run.memory_map import PIECE, STRUCT_PAGE_SHIFT
from fuzzvm.compiled.run.private import base_of
from fuzzvm.compiled.run.translate import Becomes, Insert, Update, part, shift_of
from fuzzvm.compiled.run.units import Unit
from fuzzvm.machine.ops import Address, Alloc, Free, Load, Order, Rmw, Steps, Store, address_of, object_of
from fuzzvm.supervision.user_code import shown

__all__ = [
    "Caller",
    "Order",
    "Steps",
    "alloc_page",
    "compare_exchange",
    "free_page",
    "load",
    "lock",
    "offset",
    "store",
    "symbol",
    "unlock",
    "update",
]

WORD = 8

# Accesses


def load(c: Caller, va: int, size: int = WORD, order: Order = Order.PLAIN) -> Steps[int]:
    """Read so many bytes (1, 2, 4 or 8) at an address."""
    _check_size(size)
    if _is_own(c, va):
        own: int = yield OwnLoad(va, size)
        return own
    memory = c.environment.memory
    unit = memory.location(va, size)
    if unit is None:
        return memory.constant(va, size)
    response: int = yield Load(unit.address, order)
    return part(response ^ memory.initial(unit), unit, va, size)


def store(c: Caller, va: int, value: int, size: int = WORD, order: Order = Order.PLAIN) -> Steps[None]:
    """Write so many bytes (1, 2, 4 or 8) at an address."""
    _check_size(size)
    value &= (1 << 8 * size) - 1
    if _is_own(c, va):
        yield OwnStore(va, size, value)
        return
    unit = writable(c, va, size)
    initial = c.environment.memory.initial(unit)
    if unit.size == size:
        yield Store(unit.address, value ^ initial, order)
    else:
        yield Rmw(unit.address, Insert(shift_of(unit, va), size, value, initial), order, quiet=True)


def update(
    c: Caller, va: int, operation: str, operand: int, size: int = WORD, order: Order = Order.ACQUIRE_RELEASE
) -> Steps[int]:
    """Change so many bytes in one step, and return what was there.

    `operation` is the atomic instruction's: "add", "set" and "clr" of bits, "eor", "swp", and "smax" and its like.
    """
    if operation not in UPDATES:
        raise ImageError(f"no operation {operation!r}; there are {', '.join(sorted(UPDATES))}")
    unit = _whole(c, va, size)
    initial = c.environment.memory.initial(unit)
    response: int = yield Rmw(unit.address, Update(operation, operand & (1 << 8 * size) - 1, 8 * size, initial), order)
    return response ^ initial


def compare_exchange(
    c: Caller, va: int, old: int, new: int, size: int = WORD, order: Order = Order.ACQUIRE_RELEASE
) -> Steps[int]:
    """Write `new` where `old` is, in one step; return what was there."""
    unit = _whole(c, va, size)
    initial = c.environment.memory.initial(unit)
    response: int = yield Rmw(unit.address, Becomes(new ^ initial), order, expected=(old ^ initial,))
    return response ^ initial


# Locks: a byte or a word that is 0 while the lock is free


@dataclass(frozen=True, slots=True)
class _Free:
    initial: int

    def __call__(self, owner: int) -> bool:
        return owner == self.initial

    def blocked_by(self, owner: int) -> tuple[int, ...]:
        # it does not say who has it
        return ()


def lock(c: Caller, va: int, size: int = 1) -> Steps[None]:
    """Wait until the lock at an address is free, and take it: an acquire."""
    unit = writable(c, va, size)
    initial = c.environment.memory.initial(unit)
    yield Rmw(unit.address, Becomes(1 ^ initial), Order.ACQUIRE, _Free(initial))


def unlock(c: Caller, va: int, size: int = 1) -> Steps[None]:
    """Let go of the lock at an address: a release."""
    unit = writable(c, va, size)
    yield Rmw(unit.address, Becomes(c.environment.memory.initial(unit)), Order.RELEASE)


# Pages


@dataclass(frozen=True, slots=True)
class PageLabel:
    """What a page is that the page allocator has given."""

    def __str__(self) -> str:
        return "a page"


def alloc_page(c: Caller) -> Steps[int]:
    """Allocate a page of zeros; return the address of its struct page. It never fails."""
    # with room for the two locations that stand for the whole of it, wherever the page ends
    page: Address = yield Alloc(PIECE, PageLabel())
    return c.environment.memory.layout.vmemmap + (object_of(page) << STRUCT_PAGE_SHIFT)


def free_page(c: Caller, page: int) -> Steps[None]:
    """Free a page, given by the address of its struct page."""
    yield Free(address_of(page - c.environment.memory.layout.vmemmap >> STRUCT_PAGE_SHIFT))


# Names: these are no generators


def symbol(c: Caller, name: str) -> int:
    """Return the address of what the image has under a name."""
    return c.environment.memory.image.symbol(name).address


def offset(c: Caller, struct: str, *members: str) -> int:
    """Return the offset of a member of a struct, and of a member of that, and so on."""
    return c.environment.memory.image.types.offset(struct, *members)


def page_address(c: Caller, page: int) -> int:
    """Return the address of a page's contents, given by the address of its struct page."""
    layout = c.environment.memory.layout
    return layout.page(page - layout.vmemmap >> STRUCT_PAGE_SHIFT)


def writable(c: Caller, va: int, size: int) -> Unit:
    """Return the location of an access that writes. Raises ImageError where nothing can be written."""
    unit = c.environment.memory.location(va, size)
    if unit is None:
        raise ImageError(f"{va:#x} is written to, which is read-only")
    return unit


def _check_size(size: int) -> None:
    if size not in (1, 2, 4, 8):
        raise ImageError(f"an access of {shown(size)} bytes: 1, 2, 4 and 8 are possible")


def _whole(c: Caller, va: int, size: int) -> Unit:
    _check_size(size)
    if _is_own(c, va):
        raise ImageError(f"an atomic of the CPU's own memory at {va:#x}: load() and store() do it as well")
    unit = writable(c, va, size)
    if unit.size != size:
        raise ImageError(f"an atomic of {size} of {unit.size} bytes, at {va:#x}")
    return unit


def _is_own(c: Caller, va: int) -> bool:
    size = c.environment.executable.arch.own_size
    return base_of(c.cpu, size) <= va < base_of(c.cpu + 1, size)
