"""Static keys: a branch that is patched into the code (kernel/jump_label.c, Linux 6.12).

A key's word is a count; -1 while the first enabler patches. Every site of the key is a code location of its own that
holds a NOP or a branch, or, while it is patched, what the architecture leaves there (a breakpoint on x86); a second
enabler returns only once the first has patched them all.
CPU hotplug is not modelled, so cpus_read_lock() is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.kernel.errors import UNBALANCED_STATIC_KEY
from fuzzvm.kernel.locking.exclusive import mutex_lock, mutex_unlock
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Fetch, Load, Order, Rmw, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

NOP = 0
BRANCH = 1


@dataclass(frozen=True, slots=True)
class StaticKey:
    """A key: the address of its count, and its patched sites, function name and code location each."""

    name: str
    enabled: Address
    sites: tuple[tuple[str, Address], ...]

    def site(self, function: str) -> Address:
        """Return the code location of the site in a function. Raises KeyError if the key has none there."""
        return dict(self.sites)[function]


@dataclass(frozen=True, slots=True)
class _CompareAndExchange:
    expected: int
    new: int

    def __call__(self, old: int) -> int:
        return self.new if old == self.expected else old


@dataclass(frozen=True, slots=True)
class _Dec:
    def __call__(self, old: int) -> int:
        return old - 1


def static_branch_unlikely(k: Kernel, key: StaticKey, function: str) -> Steps[bool]:
    """Execute the patched site of a key in a function; return whether the branch is taken. Off, it costs a NOP."""
    site = key.site(function)
    instruction = yield Fetch(site, "free-key-check")
    if instruction not in (NOP, BRANCH):
        instruction = yield from k.arch.trap(k, site, instruction)
    return bool(instruction == BRANCH)


def jump_label_update(k: Kernel, key: StaticKey, instruction: int) -> Steps[None]:
    """Patch every site of a key and make all CPUs see it, in the architecture's way."""
    yield from k.arch.arch_jump_label_transform(k, tuple(site for _, site in key.sites), instruction)


def _fast_inc_not_disabled(k: Kernel, key: StaticKey) -> Steps[bool]:
    value = yield Load(key.enabled)
    while value > 0:
        old = yield Rmw(key.enabled, _CompareAndExchange(value, value + 1), Order.ACQUIRE_RELEASE)
        if old == value:
            return True
        value = old
    return False


def static_branch_inc(k: Kernel, key: StaticKey) -> Steps[None]:
    """Count one user more; the first patches the branches in (static_key_slow_inc_cpuslocked)."""
    counted = yield from _fast_inc_not_disabled(k, key)
    if counted:
        return
    yield from mutex_lock(k.cpu, k.jump_label_mutex)
    old = yield Rmw(key.enabled, _CompareAndExchange(0, -1), Order.ACQUIRE_RELEASE)
    if old == 0:
        yield from jump_label_update(k, key, BRANCH)
        # who sees the positive count must see the patched text as well
        yield Store(key.enabled, 1, Order.RELEASE)
    else:
        yield from _fast_inc_not_disabled(k, key)
    yield from mutex_unlock(k.cpu, k.jump_label_mutex)


def _dec_not_one(k: Kernel, key: StaticKey) -> Steps[bool]:
    value = yield Load(key.enabled)
    while True:
        if value == 0:
            raise ModelError(UNBALANCED_STATIC_KEY, f"{key.name} is decremented below zero", address=key.enabled)
        if value <= 1:
            return False
        old = yield Rmw(key.enabled, _CompareAndExchange(value, value - 1), Order.ACQUIRE_RELEASE)
        if old == value:
            return True
        value = old


def static_branch_dec(k: Kernel, key: StaticKey) -> Steps[None]:
    """Count one user less; the last patches the branches out. Raises ModelError unbalanced-static-key."""
    counted = yield from _dec_not_one(k, key)
    if counted:
        return
    yield from mutex_lock(k.cpu, k.jump_label_mutex)
    value = yield Load(key.enabled)
    if value <= 0:
        raise ModelError(UNBALANCED_STATIC_KEY, f"{key.name} is decremented below zero", address=key.enabled)
    old = yield Rmw(key.enabled, _Dec(), Order.ACQUIRE_RELEASE)
    if old == 1:
        yield from jump_label_update(k, key, NOP)
    yield from mutex_unlock(k.cpu, k.jump_label_mutex)


def static_branch_enable(k: Kernel, key: StaticKey) -> Steps[None]:
    """Turn a key on that is used as a flag; nothing happens where it is on (static_key_enable_cpuslocked)."""
    value = yield Load(key.enabled)
    if value > 0:
        return
    yield from mutex_lock(k.cpu, k.jump_label_mutex)
    value = yield Load(key.enabled)
    if value == 0:
        yield Store(key.enabled, -1)
        yield from jump_label_update(k, key, BRANCH)
        yield Store(key.enabled, 1, Order.RELEASE)
    yield from mutex_unlock(k.cpu, k.jump_label_mutex)


def static_branch_disable(k: Kernel, key: StaticKey) -> Steps[None]:
    """Turn a flag off, whoever turned it on (static_key_disable_cpuslocked)."""
    value = yield Load(key.enabled)
    if value != 1:
        return
    yield from mutex_lock(k.cpu, k.jump_label_mutex)
    old = yield Rmw(key.enabled, _CompareAndExchange(1, 0), Order.ACQUIRE_RELEASE)
    if old == 1:
        yield from jump_label_update(k, key, NOP)
    yield from mutex_unlock(k.cpu, k.jump_label_mutex)
