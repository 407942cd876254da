"""The kernel that all CPUs share: its locks, its root table, its architecture and mitigation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fuzzvm.kernel.arch import Architecture
from fuzzvm.kernel.gfp import Memory, Shrinker
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.interrupts import Interrupt
from fuzzvm.kernel.irq_safety import Context
from fuzzvm.kernel.jump_label import StaticKey
from fuzzvm.kernel.locking import rcu
from fuzzvm.kernel.locking.exclusive import ExclusiveLock
from fuzzvm.kernel.locking.lock import Lock
from fuzzvm.kernel.locking.rcu import Rcu
from fuzzvm.kernel.locking.rwsem import RwSemaphore
from fuzzvm.kernel.mmap_lock import FREE, Mm, Role
from fuzzvm.kernel.pgtable import CodeLabel, Geometry, Level, LockLabel, StaticLabel, TableLabel
from fuzzvm.kernel.rcu_callbacks import RcuCore
from fuzzvm.kernel.workqueue import KernelThread, Kworker, ThreadFunction, WorkQueue
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address
from fuzzvm.machine.program import Constant


@dataclass(frozen=True, eq=False)
class Kernel(Constant):
    """The kernel as one CPU sees it: `cpu` is what smp_processor_id() returns. Nothing in it changes during a run.

    Compares by identity, which makes it one constant in a CPU's local state.
    """

    arch: Architecture
    geometry: Geometry
    mitigation: Mitigation
    init_mm: Mm
    mms: tuple[Mm, ...]
    """Every mm whose root leads to the kernel's tables, init_mm first."""
    page_table_lock: ExclusiveLock
    jump_label_mutex: ExclusiveLock
    mem_hotplug_lock: RwSemaphore
    vmap_purge_lock: ExclusiveLock
    vmap_area_root: Address
    static_keys: tuple[StaticKey, ...]
    locks: tuple[Lock, ...]
    """Every lock there is, of whatever kind, the mitigation's own as well."""
    opaque_words: tuple[Address, ...]
    """Words that the mitigation keeps something of its own in."""
    nr_cpus: int = 1
    """CPUs that make calls; those of `threads` are numbered after them."""
    threads: tuple[KernelThread, ...] = ()
    lazy_mmu: bool = False
    """Whether vmap sets PTEs in lazy MMU mode (6.16: "mm/vmalloc: Enter lazy mmu mode …")."""
    tlb: bool = False
    """Whether what TLBs and walk caches may hold is watched."""
    arch_data: Any = None
    """What the architecture has of its own: immutable, and nobody else's to look at."""
    walk_rereads: bool = False
    """Whether a walk reads an upper entry as often as the kernel does, not once."""
    busy_lock: ExclusiveLock | None = None
    """vmap_node's busy.lock, of all nodes together, where a call holds it: who looks an area up, while it is used."""
    rcu: Rcu | None = None
    """RCU, where the mitigation has a use for it."""
    irqs_off: tuple[Address, ...] = ()
    """For each CPU the word that says whether it has interrupts off; none where no CPU ever has."""
    invlpgb: bool = False
    """Whether x86_64's TLB flushes are broadcast (X86_FEATURE_INVLPGB)."""
    interrupts: tuple[Interrupt, ...] = ()
    """The interrupts that CPUs take. What raises each is a CPU more, numbered after those of `threads`."""
    memory: Memory | None = None
    """How memory runs short, where a scenario has it do so: one more CPU, the last, has it do that."""
    fs_reclaim: Address | None = None
    """The word that stands for reclaim among the locks, where there are shrinkers."""
    unmarked_tables: Address | None = None
    """The tables that lack PT_kernel where a device walks the kernel's tables (IOMMU_SVA); None where none does."""
    cpu: int = 0
    role: Role = FREE
    """What the code that is given this takes an mm's lock for, unless it says so itself."""
    reclaims: bool = False
    """Whether the code that is given this runs in reclaim (PF_MEMALLOC)."""
    _in_roles: dict[Role | str, Kernel] = field(default_factory=dict, init=False, repr=False)

    def on(self, cpu: int) -> Kernel:
        """Return the kernel as that CPU sees it."""
        view = copy.copy(self)
        object.__setattr__(view, "cpu", cpu)
        object.__setattr__(view, "_in_roles", {})
        return view

    def in_role(self, role: Role) -> Kernel:
        """Return the kernel for code that takes an mm's lock for that; for the same CPU always the same object."""
        view = self._in_roles.get(role)
        if view is None:
            view = self._in_roles[role] = copy.copy(self)
            object.__setattr__(view, "role", role)
        return view

    def in_reclaim(self) -> Kernel:
        """Return the kernel for code that reclaim calls; for the same CPU always the same object."""
        view = self._in_roles.get("reclaim")
        if view is None:
            view = self._in_roles["reclaim"] = self.on(self.cpu)
            object.__setattr__(view, "role", FREE)
            object.__setattr__(view, "reclaims", True)
        return view

    @property
    def beside(self) -> tuple[str, ...]:
        """What the CPUs are called that are not the scenario's, in the order of their numbers."""
        raised = (f"source of {one.context.value} on CPU {one.cpu}" for one in self.interrupts)
        return (*(thread.name for thread in self.threads), *raised, *(("memory",) if self.memory else ()))

    @property
    def interrupt_contexts(self) -> tuple[Context, ...]:
        """The kinds of interrupts that code of this kernel runs in, each once."""
        softirqs = [Context.SOFTIRQ for thread in self.threads if isinstance(thread.function, RcuCore)]
        return tuple(dict.fromkeys([*(interrupt.context for interrupt in self.interrupts), *softirqs]))

    def lock_name(self, address: Address) -> str:
        """Return what the lock of that word is called; the address in hexadecimal where it is the word of none."""
        return next((lock.name for lock in self.locks if lock.address == address), f"{address:#x}")

    def mm(self, name: str) -> Mm:
        """Return the mm of that name. Raises KeyError where this kernel has none."""
        return {mm.name: mm for mm in self.mms}[name]


class Boot:
    """Makes the objects that are there from the beginning. Mitigations get it in `attach`."""

    def __init__(self, machine: Machine, nr_cpus: int = 1) -> None:
        self._machine = machine
        self.nr_cpus = nr_cpus
        """CPUs that make calls, numbered from 0: a word for each is what a per-CPU variable is."""
        self.static_keys: list[StaticKey] = []
        self.locks: list[Lock] = []
        self.words: list[Address] = []
        """Words made for their own sake: nobody knows what is in them."""
        self.threads: list[KernelThread] = []
        self.irqs_off: tuple[Address, ...] = ()
        self._rcu: Rcu | None = None
        self._rcu_callbacks: WorkQueue | None = None
        self._system_wq: WorkQueue | None = None

    def word(self, name: str) -> Address:
        """Return the address of a new word that holds 0."""
        address = self._word(name)
        self.words.append(address)
        return address

    def _word(self, name: str) -> Address:
        return self._machine.allocate(1, StaticLabel(name))

    def lock_word(self, name: str, unused: str = "free", words: int = 1) -> Address:
        """Return the address of a new word for a lock, or of the first of several; each holds 0.

        `unused` says in words what 0 means there.
        """
        address = self._machine.allocate(words, LockLabel(name, unused))
        self.locks += [Lock(address + word, name) for word in range(words)]
        return address

    def rwsem(self, name: str) -> RwSemaphore:
        """Return a new rw_semaphore, unlocked."""
        return RwSemaphore(self.lock_word(name), name)

    def lock(self, name: str) -> ExclusiveLock:
        """Return a new spinlock or mutex, unlocked."""
        return ExclusiveLock(self.lock_word(name), name)

    def static_key(self, name: str, functions: tuple[str, ...]) -> StaticKey:
        """Return a new static key that is off, with one patched site in each of these functions."""
        sites = tuple(
            (function, self._machine.allocate(1, CodeLabel(f"{name} in {function}"))) for function in functions
        )
        for _, site in sites:
            self._machine.memory.hold_code(site)
        key = StaticKey(name, self._word(name), sites)
        self.static_keys.append(key)
        return key

    def list_head(self, name: str) -> Address:
        """Return the address of a new word for a list: a tuple of addresses, and 0 while it was never used."""
        return self._word(name)

    @property
    def asked_for_rcu(self) -> Rcu | None:
        """The kernel's RCU where somebody has asked for it, else None."""
        return self._rcu

    def interrupts(self) -> None:
        """Have a word for each CPU that says whether it has interrupts off: who disables them asks for that first."""
        if not self.irqs_off:
            self.irqs_off = tuple(self.lock_word(f"interrupts of CPU {cpu}", "on") for cpu in range(self.nr_cpus))

    def rcu(self) -> Rcu:
        """Return the kernel's RCU."""
        if self._rcu is None:
            self._rcu = Rcu(self.lock_word("rcu_state", rcu.UNUSED), "rcu_state")
        return self._rcu

    def rcu_callbacks(self) -> WorkQueue:
        """Return the queue of RCU's callbacks, for call_rcu(); the softirq that runs them is a CPU more."""
        if self._rcu_callbacks is None:
            self._rcu_callbacks = self.kernel_thread("softirq", "rcu_data.cblist", RcuCore(self.rcu()))
        return self._rcu_callbacks

    def system_wq(self) -> WorkQueue:
        """Return the queue that schedule_work() takes; its kworker is a CPU more."""
        if self._system_wq is None:
            self._system_wq = self.kernel_thread("kworker", "system_wq", Kworker())
        return self._system_wq

    def kernel_thread(self, name: str, queue_name: str, function: ThreadFunction) -> WorkQueue:
        """Add a CPU that serves a queue of its own, after those there are; return the queue."""
        queue = WorkQueue(self._word(queue_name), queue_name)
        self.threads.append(KernelThread(name, queue, function))
        return queue

    def table(self, level: Level, va: int, size: int, mm: str = "init_mm") -> Address:
        """Return a new, empty page table."""
        table = self._machine.allocate(size, TableLabel(level, va, mm))
        self._machine.watch(table)
        return table


def boot_kernel(
    machine: Machine,
    arch: Architecture,
    geometry: Geometry,
    mitigation: Mitigation,
    *,
    nr_cpus: int = 1,
    other_mms: Sequence[str] = (),
    lazy_mmu: bool = False,
    tlb: bool = False,
    walk_rereads: bool = False,
    invlpgb: bool = False,
    iommu_sva: bool = False,
    lookups: bool = False,
    irqs_off: bool = False,
    interrupts: Sequence[tuple[int, Context]] = (),
    shrinkers: tuple[Shrinker, ...] = (),
    allocations_fail: bool = False,
) -> Kernel:
    """Return a kernel whose page tables are an empty root, on a machine that has not started.

    `nr_cpus` CPUs make calls. `other_mms` are further mms, whose roots are as empty and lead nowhere yet. `lookups`
    says that a call looks up pages of areas, `irqs_off` that one disables interrupts. `interrupts` are those that CPUs
    take, each with what it is; memory runs short where there are shrinkers, or allocations may fail.
    """
    boot = Boot(machine, nr_cpus)
    init_mm = _mm(boot, geometry, "init_mm")
    mitigation.attach(boot)
    opaque_words = tuple(boot.words)
    page_table_lock, jump_label_mutex = boot.lock("init_mm.page_table_lock"), boot.lock("jump_label_mutex")
    mem_hotplug_lock, vmap_purge_lock = boot.rwsem("mem_hotplug_lock"), boot.lock("vmap_purge_lock")
    vmap_area_root = boot.word("vmap_area_root")
    arch_data = arch.attach(boot, mitigation.functions)
    busy_lock = boot.lock("vmap_node.busy.lock") if lookups else None
    if irqs_off or any(context is not Context.SOFTIRQ for _, context in interrupts):
        boot.interrupts()
    raised = tuple(
        Interrupt(cpu, context, boot.lock_word(f"{context.value} of CPU {cpu}", "not raised"))
        for cpu, context in interrupts
    )
    short = shrinkers or allocations_fail
    memory = Memory(boot.lock_word("memory", "enough"), shrinkers, allocations_fail) if short else None
    return Kernel(
        arch=arch.configured(geometry),
        geometry=geometry,
        mitigation=mitigation,
        init_mm=init_mm,
        mms=(init_mm, *[_mm(boot, geometry, name) for name in other_mms]),
        page_table_lock=page_table_lock,
        jump_label_mutex=jump_label_mutex,
        mem_hotplug_lock=mem_hotplug_lock,
        vmap_purge_lock=vmap_purge_lock,
        vmap_area_root=vmap_area_root,
        arch_data=arch_data,
        walk_rereads=walk_rereads,
        busy_lock=busy_lock,
        rcu=boot.asked_for_rcu,
        irqs_off=boot.irqs_off,
        interrupts=raised,
        memory=memory,
        fs_reclaim=boot.lock_word("fs_reclaim") if shrinkers else None,
        invlpgb=invlpgb,
        unmarked_tables=boot.list_head("tables without PT_kernel") if iommu_sva else None,
        static_keys=tuple(boot.static_keys),
        locks=tuple(boot.locks),
        opaque_words=opaque_words,
        nr_cpus=nr_cpus,
        threads=tuple(boot.threads),
        lazy_mmu=lazy_mmu,
        tlb=tlb,
    )


def _mm(boot: Boot, geometry: Geometry, name: str) -> Mm:
    start = geometry.table_start(Level.PGD, geometry.base)
    pgd = boot.table(Level.PGD, start, geometry.ptrs[Level.PGD], name)
    return Mm(name, pgd, boot.rwsem(f"{name}.mmap_lock"))
