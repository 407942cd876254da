"""The kernel that all CPUs share: its locks, its root table, its architecture and mitigation."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from fuzzvm.kernel.arch import Architecture
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.jump_label import StaticKey
from fuzzvm.kernel.locks import ExclusiveLock
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Geometry, Level, LockLabel, StaticLabel, TableLabel
from fuzzvm.kernel.rwsem import RwSemaphore
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address


@dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel as one CPU sees it: `cpu` is what smp_processor_id() returns. Nothing in it changes during a run.

    Compares by identity, which makes it one constant in a CPU's local state.
    """

    arch: Architecture
    geometry: Geometry
    mitigation: Mitigation
    init_mm: Mm
    page_table_lock: ExclusiveLock
    jump_label_mutex: ExclusiveLock
    mem_hotplug_lock: RwSemaphore
    vmap_purge_lock: ExclusiveLock
    vmap_area_root: Address
    static_keys: tuple[StaticKey, ...]
    locks: tuple[ExclusiveLock, ...]
    """Every lock there is, the mitigation's own as well."""
    opaque_words: tuple[Address, ...]
    """Words that the mitigation keeps something of its own in."""
    arch_data: Any = None
    """What the architecture has of its own: immutable, and nobody else's to look at."""
    walk_rereads: bool = False
    """Whether a walk reads an upper entry as often as the kernel does, not once."""
    cpu: int = 0

    def on(self, cpu: int) -> Kernel:
        """Return the kernel as that CPU sees it."""
        view = copy.copy(self)
        object.__setattr__(view, "cpu", cpu)
        return view


class Boot:
    """Makes the objects that are there from the beginning. Mitigations get it in `attach`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.static_keys: list[StaticKey] = []
        self.locks: list[ExclusiveLock] = []
        self.words: list[Address] = []
        """Words made for their own sake: nobody knows what is in them."""

    def word(self, name: str) -> Address:
        """Return the address of a new word that holds 0."""
        address = self._word(name)
        self.words.append(address)
        return address

    def _word(self, name: str) -> Address:
        return self._machine.allocate(1, StaticLabel(name))

    def rwsem(self, name: str) -> RwSemaphore:
        """Return a new rw_semaphore, unlocked."""
        return RwSemaphore(self._word(name), name)

    def lock(self, name: str) -> ExclusiveLock:
        """Return a new spinlock or mutex, unlocked."""
        lock = ExclusiveLock(self._machine.allocate(1, LockLabel(name)), name)
        self.locks.append(lock)
        return lock

    def static_key(self, name: str, functions: tuple[str, ...]) -> StaticKey:
        """Return a new static key that is off, with one patched site in each of these functions."""
        sites = tuple((function, self._word(f"{name} in {function}")) for function in functions)
        for _, site in sites:
            self._machine.memory.hold_code(site)
        key = StaticKey(name, self._word(name), sites)
        self.static_keys.append(key)
        return key

    def table(self, level: Level, va: int, size: int) -> Address:
        """Return a new, empty page table."""
        table = self._machine.allocate(size, TableLabel(level, va))
        self._machine.watch(table)
        return table


def boot_kernel(
    machine: Machine, arch: Architecture, geometry: Geometry, mitigation: Mitigation, *, walk_rereads: bool = False
) -> Kernel:
    """Return a kernel whose page tables are an empty root, on a machine that has not started."""
    boot = Boot(machine)
    pgd = boot.table(Level.PGD, geometry.table_start(Level.PGD, geometry.base), geometry.ptrs[Level.PGD])
    init_mm = Mm("init_mm", pgd, boot.rwsem("init_mm.mmap_lock"))
    mitigation.attach(boot)
    opaque_words = tuple(boot.words)
    page_table_lock, jump_label_mutex = boot.lock("init_mm.page_table_lock"), boot.lock("jump_label_mutex")
    mem_hotplug_lock, vmap_purge_lock = boot.rwsem("mem_hotplug_lock"), boot.lock("vmap_purge_lock")
    vmap_area_root = boot.word("vmap_area_root")
    arch_data = arch.attach(boot)
    return Kernel(
        arch=arch,
        geometry=geometry,
        mitigation=mitigation,
        init_mm=init_mm,
        page_table_lock=page_table_lock,
        jump_label_mutex=jump_label_mutex,
        mem_hotplug_lock=mem_hotplug_lock,
        vmap_purge_lock=vmap_purge_lock,
        vmap_area_root=vmap_area_root,
        arch_data=arch_data,
        walk_rereads=walk_rereads,
        static_keys=tuple(boot.static_keys),
        locks=tuple(boot.locks),
        opaque_words=opaque_words,
    )
