"""What each CPU may still do, as a certificate claims it, checked step by step.

Memory may forget what no CPU can tell any more (`MemoryModel.normalise`), given what each may still do. A certificate
claims that for each local state. The claims are believed where they are closed: each has all that the local state's own
operation does, and all that is claimed of each local state that follows. Then no CPU ever does what was not claimed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from fuzzvm.certificate.errors import RejectedError
from fuzzvm.certificate.file import Claim, Fact, Safe
from fuzzvm.certificate.programs import ENDED, History
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory import MemoryModel, Needs
from fuzzvm.machine.ops import Annotation, Await, Fence, Fetch, Free, Load, Operation, Order, Rmw, Store, object_of
from fuzzvm.machine.property import Observed

OVERTAKES: Fact = ("overtakes", None)
LOOKS: Fact = ("looks", None)
_NOTHING: Claim = frozenset()


class Claims:
    """The claims of one certificate. `booted` is a machine at the beginning of a run, `observed` what oracles read."""

    def __init__(self, certificate: Safe, booted: Machine, observed: Observed) -> None:
        self._model = type(booted.memory)
        self.forgets = self._model.normalise is not MemoryModel.normalise
        self._listed = certificate.claims
        self._entries = certificate.entries
        self._unwatched = frozenset(range(len(booted.allocator.allocations))) - booted.watched
        self._observed = observed
        self._of: dict[int, Claim] = {ENDED: _NOTHING}
        self._needs: dict[Claim, Needs] = {}

    def met(self, history: History) -> None:
        """Take in a history that was met. Raises RejectedError where a claim is not closed."""
        if not self.forgets:
            return
        if history.local not in self._of:
            if len(self._of) > len(self._listed):
                raise RejectedError("a CPU comes to a local state of which nothing is claimed")
            self._of[history.local] = self._listed[len(self._of) - 1]
        claimed = self._of[history.local]
        if history.op is not None:
            self._see(history.op)
            self._covers(claimed, set(_facts(history.op, self._model)), history)
        if history.before is None:
            return
        before, op = self._of[history.before.local], history.before.op
        assert op is not None
        follows = set(claimed)
        if self._model.orders_loads(op):
            follows.discard(OVERTAKES)
        if any(isinstance(said.what, Annotation) and self._looks(said.what) for said in history.said):
            follows.add(LOOKS)
        self._covers(before, follows, history)

    def needs(self, local: int) -> Needs:
        """Return what is claimed of a local state, as memory takes it."""
        claim = self._of[local]
        found = self._needs.get(claim)
        if found is None:
            found = self._needs[claim] = self._made(claim)
        return found

    def end(self) -> None:
        """Raise RejectedError where something is claimed of a local state that no CPU comes to."""
        if len(self._listed) != (len(self._of) - 1 if self.forgets else 0):
            raise RejectedError("it claims something of local states that no CPU comes to")

    def _covers(self, claimed: Claim, done: set[Fact], history: History) -> None:
        if missing := done - claimed:
            kind, which = next(iter(missing))
            where = "" if which is None else f" of {which}"
            raise RejectedError(f"{history.said[-1].stack[:1]}: a CPU does what it is claimed not to do: {kind}{where}")

    def _looks(self, annotation: Annotation) -> bool:
        return self._observed.annotation(annotation).readable

    def _see(self, op: Operation) -> None:
        """Raise RejectedError for an access to what oracles may look at, unless the certificate lists the location."""
        if not isinstance(op, Load | Await | Rmw | Store) or object_of(op.address) in self._unwatched:
            return
        if op.address not in self._entries:
            raise RejectedError(f"an access to {op.address:#x}, which is not among its entries")

    def _made(self, claim: Claim) -> Needs:
        by_kind: defaultdict[str, set[Any]] = defaultdict(set)
        for kind, which in claim:
            by_kind[kind].add(which)
        if LOOKS in claim:
            by_kind["load"] |= self._entries
            by_kind["read"] |= self._entries
        kinds: Sequence[str] = ("load", "read", "fetch", "ordering", "free", "barrier")
        loads, reads, fetches, ordering, frees, barriers = (frozenset(by_kind[kind]) for kind in kinds)
        flags = [(flag, None) in claim for flag in ("stores", "overtakes", "exact")]
        return Needs(loads, reads, fetches, ordering, frees, barriers, *flags)


def _facts(op: Operation, model: type[MemoryModel]) -> Iterator[Fact]:
    """Yield what an operation does, as claims have it."""
    order = getattr(op, "order", Order.PLAIN)
    match op:
        case Load(address) | Await(address) | Rmw(address):
            yield "read", address
            if isinstance(op, Rmw) or order is not Order.PLAIN:
                yield "ordering", address
            # an atomic that compares may be a load
            if isinstance(op, Load) or (isinstance(op, Rmw) and op.expected is not None):
                yield "load", address
        case Store():
            yield "stores", None
        case Fetch(address):
            yield "fetch", address
        case Free(address):
            yield "free", object_of(address)
        case Fence(kind):
            yield "barrier", kind
    if isinstance(op, Store | Rmw) and not model.orders_loads(op):
        yield OVERTAKES
    if isinstance(op, Load | Await | Rmw | Store) and op.depends is not None:
        yield "exact", None
