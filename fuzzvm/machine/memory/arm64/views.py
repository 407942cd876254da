"""Views of one CPU: how early on the timeline each of its next operations may take place.

The model is Promising-ARM (Pulte et al., "Promising-ARM/RISC-V", PLDI 2019): a CPU executes in program order, and for
every kind of ordering remembers a view, the timestamp of the last message that something ordered so comes after. A
load whose floor is v may read from any store that no store to the same location follows at or before v; a store must
be put later than its floor. The rules are those of the `lob`, `pick-lob` and `Exp-haz-ob` relations of Arm's
aarch64.cat (Arm ARM B2.3.6 ff.), each named at the line that stands for it.

Why this is exact. A run of the machine is a linear extension of ordered-before: stores and cache maintenance have the
positions of their messages, and each load or fetch takes place right after the message that is its view. Views are
least upper bounds over the edges of local ordering, so a load's position is the earliest that its predecessors allow;
every edge to a store asks that the store's timestamp be greater; every edge from a load to a later store of another
CPU (from-reads) asks that the store be later than the load's position, which is the rule for what a load may read.
Coherence inside a CPU follows from `own` (nothing older than one's own last store) and `seen` (CoRR).

Two views run in parallel. A `pick` dependency (a value selected by CSEL or by a compare-and-swap) orders stores and
cache maintenance but not loads: floors of loads use the plain view, floors of stores the pick view, which is never
the smaller one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum
from typing import NamedTuple

from fuzzvm.machine.memory.arm64.timeline import Timeline
from fuzzvm.machine.ops import Barrier, Order

ACQUIRES = frozenset({Order.ACQUIRE, Order.ACQUIRE_PC, Order.ACQUIRE_RELEASE})
RELEASES = frozenset({Order.RELEASE, Order.ACQUIRE_RELEASE})
ORDERS_LOADS = frozenset({Barrier.DMB_ISH, Barrier.DMB_ISHLD, Barrier.DSB_ISH, Barrier.DSB_ISHLD})
"""The kinds of barrier that order loads before everything after them."""
ORDERS_STORES = frozenset({Barrier.DMB_ISH, Barrier.DSB_ISH, Barrier.DSB_ISHST})
"""Those that order stores before the loads after them."""


class CacheType(Enum):
    """What an instruction fetch asks of software: the fields IDC and DIC of CTR_EL0 (Arm ARM).

    With IDC = 1 a store need not be cleaned by DC CVAU, with DIC = 1 old instructions need not be invalidated by IC
    IVAU either: a fetch then reads as a load does. DIC = 1 without IDC = 1 is taken as both, as herd7 takes it.
    """

    DIC0_IDC0 = "DIC=0 IDC=0"
    DIC0_IDC1 = "DIC=0 IDC=1"
    DIC1_IDC1 = "DIC=1 IDC=1"


class LocationViews(NamedTuple):
    """What a CPU remembers of one location.

    `own` is the timestamp of its last own store, `seen` and `seen_pick` the views of its loads, `cleaned` of its DC.
    Of its last own store: `dependency` is the view of what address and data depend on (a load that follows waits for
    that), `chain` and `chain_pick` what a value read back depends on, `exclusive` the view of its load half.
    """

    own: int = 0
    seen: int = 0
    seen_pick: int = 0
    cleaned: int = 0
    dependency: int = 0
    chain: int = 0
    chain_pick: int = 0
    exclusive: int = 0


EMPTY = LocationViews()


class Loaded(NamedTuple):
    """What a load leaves behind: the views that its value carries, and its own place on the timeline."""

    view: int
    pick: int
    at: int


class Views:
    """The views of one CPU. Mutable; `copy` is cheap, `key` is hashable."""

    __slots__ = (
        "address",
        "cells",
        "clean_floor",
        "cleans",
        "control",
        "fetch_floor",
        "fetched",
        "frozen",
        "invalidate_floor",
        "invalidations",
        "loads",
        "loads_pick",
        "quiet",
        "quiet_pick",
        "read_floor",
        "read_floor_pick",
        "released",
        "stores",
        "synchronised",
        "write_floor",
    )

    def __init__(self) -> None:
        self.loads = 0
        self.loads_pick = 0
        """Loads so far, but for those of `quiet`."""
        self.quiet = 0
        self.quiet_pick = 0
        """Load halves of atomics that return no value: DMB LD and DSB LD do not order them."""
        self.stores = 0
        self.cleans = 0
        self.invalidations: tuple[int, ...] = ()
        """IC that no DSB has waited for yet."""
        self.read_floor = 0
        self.read_floor_pick = 0
        self.write_floor = 0
        self.clean_floor = 0
        self.invalidate_floor = 0
        self.fetch_floor = 0
        self.synchronised = 0
        """What a DSB has waited for."""
        self.control = 0
        """What branches depend on."""
        self.address = 0
        """What addresses of accesses so far depend on."""
        self.released = 0
        self.fetched = 0
        """The latest place at which a fetch took place."""
        self.cells: dict[Hashable, LocationViews] = {}
        self.frozen: tuple[object, ...] | None = None
        """The key, once views do not change any more."""

    def copy(self) -> Views:
        """Return equal views that go their own way."""
        other = Views.__new__(type(self))
        other.loads = self.loads
        other.loads_pick = self.loads_pick
        other.quiet = self.quiet
        other.quiet_pick = self.quiet_pick
        other.stores = self.stores
        other.cleans = self.cleans
        other.invalidations = self.invalidations
        other.read_floor = self.read_floor
        other.read_floor_pick = self.read_floor_pick
        other.write_floor = self.write_floor
        other.clean_floor = self.clean_floor
        other.invalidate_floor = self.invalidate_floor
        other.fetch_floor = self.fetch_floor
        other.synchronised = self.synchronised
        other.control = self.control
        other.address = self.address
        other.released = self.released
        other.fetched = self.fetched
        other.cells = dict(self.cells)
        other.frozen = None
        return other

    def frozen_key(self) -> tuple[object, ...]:
        """Return the key of views that do not change any more; worked out once."""
        if self.frozen is None:
            self.frozen = self.key()
        return self.frozen

    def key(self) -> tuple[object, ...]:
        """Return a value that is equal for equal views."""
        scalars = (
            self.loads, self.loads_pick, self.quiet, self.quiet_pick, self.stores, self.cleans, self.invalidations,
            self.read_floor, self.read_floor_pick, self.write_floor, self.clean_floor, self.invalidate_floor,
            self.fetch_floor, self.synchronised, self.control, self.address, self.released, self.fetched,
        )  # fmt: skip
        if not any(scalars) and not self.cells:
            return ()
        return (*scalars, frozenset(self.cells.items()))

    # Loads

    def load_floor(self, address: Hashable, dependency: int, order: Order) -> int:
        """Return how early a load may take place, if its address depends on `dependency`."""
        floor = self.read_floor if self.read_floor > dependency else dependency  # dob: addr
        cell = self.cells.get(address)
        if cell is not None:
            # dob: (addr | data); lmrs. po-scl-ob: DC; M.
            floor = max(floor, cell.dependency, cell.cleaned)
        if order is not Order.PLAIN:
            if order is not Order.ACQUIRE_PC and self.released > floor:
                floor = self.released  # bob: [L]; po; [A]
            if cell is not None and cell.exclusive > floor:
                floor = cell.exclusive  # aob: rmw; lmrs; [A | Q]
        return floor

    def sources(self, timeline: Timeline, address: Hashable, floor: int) -> list[int]:
        """Return the timestamps of the stores that a load with this floor may read from, newest first."""
        cell = self.cells.get(address, EMPTY)
        limit = cell.seen if cell.seen > floor else floor  # Exp-haz-ob: CoRR
        if cell.own > limit:
            limit = cell.own
        found = []
        for timestamp in reversed(timeline.stores(address)):
            found.append(timestamp)
            if timestamp <= limit:
                return found
        found.append(0)
        return found

    def loaded(
        self, address: Hashable, source: int, floor: int, dependency_pick: int, order: Order, *, quiet: bool = False
    ) -> Loaded:
        """Record a load; `quiet` is for atomics that return no value."""
        cell = self.cells.get(address, EMPTY)
        forwarded = source == cell.own
        at = floor if forwarded or floor > source else source  # Exp-obs: rf & ext
        view = at if at > cell.chain else cell.chain  # dtrm: lmrs
        pick = max(view, dependency_pick, cell.chain_pick)
        total = pick if pick > self.read_floor_pick else self.read_floor_pick
        if quiet:
            self.quiet = max(self.quiet, at)
            self.quiet_pick = max(self.quiet_pick, total)
        else:
            self.loads = max(self.loads, at)
            self.loads_pick = max(self.loads_pick, total)
        if dependency_pick > self.address:
            self.address = dependency_pick
        self.cells[address] = LocationViews(
            cell.own, max(cell.seen, at), max(cell.seen_pick, total),
            cell.cleaned, cell.dependency, cell.chain, cell.chain_pick, cell.exclusive,
        )  # fmt: skip
        if order in ACQUIRES and not quiet:  # bob: [A | Q]; po; [M]
            self.read_floor = max(self.read_floor, at)
            self.read_floor_pick = max(self.read_floor_pick, total)
            self.write_floor = max(self.write_floor, total)
        return Loaded(view, pick, at)

    # Stores

    def store_floor(self, address: Hashable, dependency_pick: int, order: Order) -> int:
        """Return the timestamp that a store must be later than, if address and data depend on `dependency_pick`."""
        # dob and pob: data, addr, ctrl; [W], addr; [M]; po; [W], each with its pick twin
        floor = max(self.write_floor, self.control, self.address, dependency_pick)
        cell = self.cells.get(address)
        if cell is not None:
            floor = max(floor, cell.own, cell.seen_pick, cell.cleaned)  # lmws; po-scl-ob
        if order in RELEASES:  # bob: [M]; po; [L]
            floor = max(floor, self.loads_pick, self.quiet_pick, self.stores)
        return floor

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
        """Record a store. `exclusive` is the place of the load half of an atomic or of an exclusive pair."""
        cell = self.cells.get(address, EMPTY)
        self.cells[address] = LocationViews(
            timestamp, cell.seen, cell.seen_pick, cell.cleaned, dependency, chain, chain_pick, exclusive
        )
        if timestamp > self.stores:
            self.stores = timestamp
        if address_pick > self.address:
            self.address = address_pick
        if order in RELEASES and timestamp > self.released:
            self.released = timestamp

    def after_atomic(self, timestamp: int) -> None:
        """Record that an atomic with acquire and release stored: it orders like a full barrier behind it."""
        # bob: [range([A]; amo; [L])]; po; [M]
        self._raise(timestamp, timestamp)

    # Barriers

    def fence(self, kind: Barrier) -> None:
        """Execute a barrier other than a DSB that has an IC to complete (see `completed`)."""
        if kind is Barrier.ISB:
            self.context_synchronisation()
        elif kind is Barrier.DMB_ISH:  # bob: dmb.full
            plain = max(self.loads, self.quiet, self.stores, self.cleans)
            self._raise(plain, max(plain, self.loads_pick, self.quiet_pick))
            self.clean_floor = max(self.clean_floor, plain)
        elif kind is Barrier.DMB_ISHLD:  # bob: dmb.ld
            self._raise(self.loads, self.loads_pick)
        elif kind is Barrier.DMB_ISHST:  # bob: dmb.st
            self.write_floor = max(self.write_floor, self.stores)
        elif kind is Barrier.DSB_ISH:
            plain = max(self.loads, self.quiet, self.stores, self.cleans)
            self._wait(plain, max(plain, self.loads_pick, self.quiet_pick))
        elif kind is Barrier.DSB_ISHLD:
            self._wait(self.loads, self.loads_pick)
        else:
            self._wait(self.stores, self.stores)

    def completed(self, timestamp: int) -> None:
        """Record that a full DSB has completed the pending IC with a COMPLETE message at `timestamp`."""
        self.invalidations = ()
        self._wait(timestamp, timestamp)

    def context_synchronisation(self) -> None:
        """Execute an ISB, or take or return from an exception (IFB-ob)."""
        at = max(self.control, self.address, self.synchronised)
        self._wait(at, at)
        self.fetch_floor = max(self.fetch_floor, at)

    def interrupted(self, timestamp: int) -> None:
        """Take an interrupt that was sent at `timestamp`: everything that follows takes place after that."""
        self._wait(timestamp, timestamp)
        self.fetch_floor = max(self.fetch_floor, timestamp)

    def branched(self, pick: int) -> None:
        """Record a branch whose condition or target depends on `pick`."""
        if pick > self.control:
            self.control = pick

    def _raise(self, plain: int, pick: int) -> None:
        """Order all loads and stores that follow."""
        self.read_floor = max(self.read_floor, plain)
        self.read_floor_pick = max(self.read_floor_pick, pick)
        self.write_floor = max(self.write_floor, pick)

    def _wait(self, plain: int, pick: int) -> None:
        """Order everything that follows, fetches apart (DSB-ob)."""
        self._raise(plain, pick)
        self.clean_floor = max(self.clean_floor, plain)
        self.invalidate_floor = max(self.invalidate_floor, plain)
        self.synchronised = max(self.synchronised, plain)

    # Cache maintenance and instruction fetch

    def maintenance_floor(self, address: Hashable, dependency_pick: int, *, clean: bool) -> int:
        """Return the timestamp that a DC (`clean`) or IC must be later than."""
        if not clean:  # dob, pob: addr; [IC], ctrl; [IC]
            return max(self.invalidate_floor, self.control, dependency_pick)
        cell = self.cells.get(address, EMPTY)
        # po-scl-ob: M; DC and DC; DC
        return max(self.clean_floor, self.control, dependency_pick, cell.own, cell.seen, cell.cleaned)

    def cleaned(self, address: Hashable, timestamp: int) -> None:
        """Record a DC."""
        cell = self.cells.get(address, EMPTY)
        self.cells[address] = cell._replace(cleaned=max(cell.cleaned, timestamp))
        self.cleans = max(self.cleans, timestamp)

    def invalidated(self, timestamp: int) -> None:
        """Record an IC."""
        self.invalidations = (*self.invalidations, timestamp)

    def fetches(
        self, timeline: Timeline, address: Hashable, caches: CacheType = CacheType.DIC0_IDC0
    ) -> list[tuple[int, int]]:
        """Return the (source, place) of each way to fetch the instruction at a location, newest source first.

        A fetch may read any store, however old, unless an IC that took place before it came after a DC that came
        after a newer store (IC-ca). With IDC = 1 it is enough that the IC came after the newer store, with DIC = 1
        that the store came before the fetch. A fetch before an IC that completes at d asks that all fetches of this
        CPU that precede it in program order took place before d (IC-ob); with DIC = 1 a fetch before a store asks
        that of them, too. Where a fetch may come before and after an IC, both are ways.
        """
        invalidations = timeline.invalidations(address)
        cleans = timeline.cleans(address)
        stores = timeline.stores(address)
        ways = []
        overwritten: int | None = None
        for source in (*reversed(stores), 0):
            earliest = max(self.fetch_floor, source)  # Instr-obs: rf
            for place in (earliest, *(at for at, _ in invalidations if at > earliest)):
                if caches is CacheType.DIC1_IDC1:
                    possible = overwritten is None or max(place, self.fetched) < overwritten
                else:
                    # IC after one of these is IC after a newer store that fetches can see
                    seen = stores if caches is CacheType.DIC0_IDC1 else cleans
                    possible = overwritten is None or not self._invalidated(overwritten, place, invalidations, seen)
                if possible and not any(place < at and self.fetched >= complete for at, complete in invalidations):
                    ways.append((source, place))
            overwritten = source
        return ways

    @staticmethod
    def _invalidated(overwritten: int, place: int, invalidations: list[tuple[int, int]], seen: Sequence[int]) -> bool:
        """Return whether an IC before `place` came after one of `seen` that is not before `overwritten`."""
        return any(at <= place and any(overwritten <= clean < at for clean in seen) for at, _ in invalidations)

    def fetch(self, place: int) -> None:
        """Record a fetch: all that follows in program order, but for other fetches, comes after it (f-ob)."""
        self.fetched = max(self.fetched, place)
        self._raise(place, place)
        self.clean_floor = max(self.clean_floor, place)
        self.invalidate_floor = max(self.invalidate_floor, place)
