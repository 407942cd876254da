"""Tables freed by RCU, as was proposed on linux-mm in 2026 for all of ptdump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.locking.rcu import Rcu, rcu_read_lock, rcu_read_unlock
from fuzzvm.kernel.rcu_callbacks import call_rcu
from fuzzvm.machine.ops import Address, Free

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Boot, Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.kernel.pgtable import Level
    from fuzzvm.kernel.workqueue import WorkQueue
    from fuzzvm.machine.ops import Steps


@dataclass(frozen=True, slots=True)
class TableHead:
    """The rcu_head of a table, whose callback frees it."""

    table: Address

    def run(self, k: Kernel) -> Steps[None]:
        yield from pagetable_free_rcu(self.table)


def pagetable_free_rcu(table: Address) -> Steps[None]:
    """Free a table: the callback."""
    yield Free(table)


class RcuFree(Mitigation):
    """A walk is a read-side section, and a table is freed a grace period after nothing leads to it any more.

    Whose lock a walk holds does not matter: a walk of another mm is as safe as one of init_mm. In a kernel the walk
    would have to be kept from sleeping; the model's walk does not allocate.
    """

    name = "rcu-free"
    summary = "tables freed after a grace period (call_rcu), the walk a read-side section"
    one_walker = "safe"
    two_walkers = "safe"
    other_mm = "safe"
    collapse = "safe"

    _rcu: Rcu
    _callbacks: WorkQueue

    def attach(self, boot: Boot) -> None:
        self._rcu = boot.rcu()
        self._callbacks = boot.rcu_callbacks()

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from call_rcu(k, self._callbacks, TableHead(table))

    def walk_locked(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        yield from rcu_read_lock(k.cpu, self._rcu)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        yield from rcu_read_unlock(k.cpu, self._rcu)
