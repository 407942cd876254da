"""Views of a CPU whose accesses are translated: what a walk may read of an entry, and what a walk orders.

Each access by virtual address first reads the entry of its page, implicitly (a walk). The rules are those of Arm's
aarch64.cat for such reads (Imp & TTD & R), each named at the line that stands for it; Simner et al., "Relaxed virtual
memory in Armv8-A" (ESOP 2022), explains them. As for other reads, a walk takes place right after the message that is
its view, and that is the earliest place which its predecessors allow.

A walk may read a value that has been overwritten: a TLB may hold it (the from-reads of a walk are no part of
ordered-before). Two things bound that:

- TLBI-after orders each walk and each TLBI of its page that a DSB completes, one way or the other. A walk that is after
  the TLBI must not have read what was overwritten before the TLBI (TLBI-ca). A walk that is before it is before
  everything behind that DSB (TLBI-ob); so are, for the TLBI of another CPU, the access itself and the walks of this
  CPU's earlier accesses.
- A walk that ends in a translation or access flag fault has read an entry that no TLB holds: it takes place before the
  entry is overwritten (TLBuncacheable-ca).

Timestamps: a TLBI is an INVALIDATE message whose address is the entry's, None for all, and whose value is 1 where it
reaches its own CPU alone. The DSB is a COMPLETE message.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from fuzzvm.machine.memory.arm64.timeline import Timeline
from fuzzvm.machine.memory.arm64.views import EMPTY, Loaded, Views
from fuzzvm.machine.ops import Barrier, Order

NO_LIMIT = 1 << 60


class Walk(NamedTuple):
    """A way to walk: which store of the entry it reads, and where it takes place.

    `limit` is the timestamp that the access must come before. `overwritten` is that of the next store of the entry.
    """

    source: int
    place: int
    limit: int
    overwritten: int


class TranslatedViews(Views):
    """The views of one CPU. `ets` is 2 or 3 with FEAT_ETS2 or FEAT_ETS3, which order more."""

    __slots__ = (
        "accessed",
        "before_faults",
        "chain",
        "chain_pick",
        "cpu",
        "ets",
        "physical",
        "translated",
        "updates",
        "walked",
    )

    def __init__(self, cpu: int, ets: int = 0) -> None:
        super().__init__()
        self.cpu = cpu
        self.ets = ets
        self.before_faults = 0
        """Stores that a DMB ST orders before faults that follow."""
        self.walked = 0
        """The latest walk of an access that did not fault."""
        self.updates = 0
        """Updates of entries by this CPU's walks."""
        self.translated = 0
        """The walk of the access that is being executed; `chain` and `chain_pick` are what its value depends on."""
        self.chain = 0
        self.chain_pick = 0
        self.accessed = 0
        """The latest place at which the access that is being executed takes place."""
        self.physical = (0, 0, 0)
        """Its physical address, with the views that its virtual address depends on."""

    def copy(self) -> TranslatedViews:
        """Return equal views that go their own way."""
        other = super().copy()
        assert isinstance(other, TranslatedViews)
        other.cpu = self.cpu
        other.ets = self.ets
        other.before_faults = self.before_faults
        other.walked = self.walked
        other.updates = self.updates
        other.translated = self.translated
        other.chain = self.chain
        other.chain_pick = self.chain_pick
        other.accessed = self.accessed
        other.physical = self.physical
        return other

    def key(self) -> tuple[object, ...]:
        """Return a value that is equal for equal views, between two instructions."""
        return (
            *super().key(),
            self.before_faults,
            self.walked,
            self.updates,
        )

    # Walks

    def walks(self, timeline: Timeline, entry: Hashable, dependency: int) -> list[Walk]:
        """Return each way to walk to an entry for an address that depends on `dependency`, newest source first."""
        floor = max(self.fetch_floor, dependency)  # IFB-ob; dob: addr
        if self.ets:
            floor = max(floor, self.synchronised)  # DSB-ob with FEAT_ETS2
        found = []
        overwritten = NO_LIMIT
        for source in (*reversed(timeline.stores(entry)), 0):
            place = max(floor, source)  # TTD-obs: rf, from stores of this CPU too
            walk = self._walk(timeline, entry, Walk(source, place, NO_LIMIT, overwritten))
            if walk is not None:
                found.append(walk)
            overwritten = source
        return found

    def _walk(self, timeline: Timeline, entry: Hashable, walk: Walk) -> Walk | None:
        """Return a walk with its limit; None if an invalidation forbids it."""
        limit = NO_LIMIT
        if walk.overwritten < NO_LIMIT:
            for at, complete in timeline.invalidations(entry):
                if at < walk.overwritten:
                    continue  # the walk may be after the TLBI
                _, cpu, _, alone = timeline.messages[at - 1]
                if cpu == self.cpu:
                    if walk.place >= complete:  # TLBI-ob: TTD-read-ordered-before
                        return None
                elif not alone:
                    limit = min(limit, complete)  # TLBI-ob: tr-ib^-1; TTD-read-ordered-before & ext
        return None if walk.place >= limit else walk._replace(limit=limit)

    def deferred(self, timeline: Timeline, entry: Hashable, walk: Walk) -> Walk | None:
        """Return a walk that ends in a fault which FEAT_ETS orders behind earlier accesses; None if it is forbidden."""
        place = max(walk.place, self.loads, self.quiet, self.stores)  # ets-ob
        return self._walk(timeline, entry, walk._replace(place=place))

    def begin(self, entry: Hashable, walk: Walk) -> bool:
        """Begin an access that a walk has translated. Return whether its walk may be followed by one."""
        if self.walked >= walk.limit:  # TLBI-ob: same-low-order-bits & po
            return False
        self.walked = max(self.walked, walk.place)
        self.translated = walk.place
        self.accessed = 0
        # dob: [Imp & TTD & R]; tr-ib; [Exp & M]; po; [Exp & W | HU], which lmws adds nothing to. IFB-ob: before IFB
        self.address = max(self.address, walk.place)
        cell = self.cells.get(entry, EMPTY)
        self.chain = cell.chain  # dtrm: lmrs
        self.chain_pick = cell.chain_pick
        return True

    def update_floor(self, walk: Walk, dependency_pick: int) -> int:
        """Return the timestamp that an update of the entry by a walk must be later than; before `begin`."""
        # aob: rmw; HU. dob, pob: addr; HU, ctrl; HU and addr; [Exp & M]; po; HU. IFB-ob. DSB-ob with FEAT_ETS2
        before = max(walk.place, dependency_pick, self.control, self.address, self.fetch_floor)
        return max(before, self.synchronised if self.ets else 0)

    def updated(self, entry: Hashable, timestamp: int, dependency: int, dependency_pick: int) -> None:
        """Record an update of an entry by a walk. It is no explicit store, and no load is forwarded from it."""
        cell = self.cells.get(entry, EMPTY)
        self.updates = max(self.updates, timestamp)
        # dtrm: lmrs. What is explicit of the last own store has no lmrs any more
        self.cells[entry] = cell._replace(
            dependency=0,
            exclusive=0,
            chain=max(dependency, cell.chain),
            chain_pick=max(dependency_pick, cell.chain_pick),
        )

    def end(self) -> None:
        """End the access."""
        self.translated = self.chain = self.chain_pick = 0

    def faulted(self, walk: Walk, dependency_pick: int) -> bool:
        """Take the exception of an access whose walk forbids it. Return whether that is possible."""
        at = max(walk.place, self.read_floor, self.before_faults)  # tr-ib; bob: MMU & FAULT; DSB-ob
        if at >= walk.limit:
            return False
        # IFB-ob: [Imp & TTD & R]; tr-ib; [IFB]. pick-addr-dep; tr-ib; [IFB]
        self.address = max(self.address, walk.place, dependency_pick)
        self.context_synchronisation()
        return True

    # Accesses

    def load_floor(self, address: Hashable, dependency: int, order: Order) -> int:
        """Return how early a load may take place: not before its walk (tr-ib)."""
        return max(super().load_floor(address, dependency, order), self.translated)

    def loaded(
        self, address: Hashable, source: int, floor: int, dependency_pick: int, order: Order, *, quiet: bool = False
    ) -> Loaded:
        """Record a load."""
        addresses = max(self.address, dependency_pick)
        depends = max(dependency_pick, self.chain_pick)
        loaded = super().loaded(address, source, floor, depends, order, quiet=quiet)
        self.address = addresses
        self.accessed = max(self.accessed, loaded.at)
        view = max(loaded.view, self.chain)
        return Loaded(view, max(loaded.pick, view), loaded.at)

    def stored(
        self,
        address: Hashable,
        timestamp: int,
        order: Order,
        *,
        dependency: int = 0,
        address_pick: int = 0,
        chain: int = 0,
        chain_pick: int = 0,
        exclusive: int = 0,
    ) -> None:
        """Record a store."""
        super().stored(
            address,
            timestamp,
            order,
            dependency=dependency,
            address_pick=address_pick,
            chain=max(chain, self.chain),
            chain_pick=max(chain_pick, self.chain_pick),
            exclusive=exclusive,
        )
        self.accessed = max(self.accessed, timestamp)

    def fence(self, kind: Barrier) -> None:
        """Execute a barrier."""
        super().fence(kind)
        if kind is Barrier.DSB_ISH:
            self._wait(self.updates, self.updates)  # DSB-ob
        if kind is Barrier.DMB_ISHST:  # bob: dmb.st; MMU & FAULT
            self.before_faults = max(self.before_faults, self.stores)
