"""Which faults a test's final states show, and how: `Fault(P0:L0,x,MMU:Translation)`, or `~Fault(...)` for none."""

from __future__ import annotations

from fuzzvm.litmus.encoding import Encoding
from fuzzvm.litmus.program import FaultPlace, LitmusError, Shown, Test
from fuzzvm.litmus.state import Fault, ThreadRun

TRANSLATION = "MMU:Translation"
ACCESS_FLAG = "MMU:AccessFlag"
PERMISSION = "MMU:Permission"
UNDEFINED = "UndefinedInstruction"
FAULTS = (TRANSLATION, ACCESS_FLAG, PERMISSION, UNDEFINED)
"""The kinds that there are here."""


class FaultsShown:
    """Numbers the faults that places show, 0 for none. Raises LitmusError for a place that there cannot be."""

    def __init__(self, test: Test, values: Encoding, places: tuple[Shown, ...]) -> None:
        self._test = test
        self._places = [place for place in places if isinstance(place, FaultPlace)]
        self._sets: list[frozenset[Fault]] = [frozenset()]
        for place in self._places:
            if place.label and place.label not in test.threads[place.thread].labels:
                raise LitmusError(f"no label {place.label} in P{place.thread}", 1)
            if place.location and place.location not in values.names():
                raise LitmusError(f"no location {place.location}, which {place} names", 1)

    def of(self, run: ThreadRun) -> tuple[int, ...]:
        """Return the number of what each place of a run's thread shows."""
        return tuple(self._number(place, run.faults) for place in self._places if place.thread == run.cpu)

    def _number(self, place: FaultPlace, faults: frozenset[Fault]) -> int:
        index = self._test.threads[place.thread].labels.get(place.label)
        shown = frozenset(
            fault
            for fault in faults
            if index in (None, fault.at) and place.location in ("", fault.location) and place.kind in ("", fault.kind)
        )
        if shown not in self._sets:
            self._sets.append(shown)
        return self._sets.index(shown)

    def show(self, place: FaultPlace, number: int) -> str:
        """Return what a place shows as herd7 prints it."""
        if not number:
            return f"~{place}"
        return "; ".join(self._show(place, fault) for fault in sorted(self._sets[number]))

    def _show(self, place: FaultPlace, fault: Fault) -> str:
        labels = self._test.threads[place.thread].labels
        label = place.label or next((label for label, index in labels.items() if index == fault.at), "")
        kind = fault.kind if place.kind or fault.kind == UNDEFINED else f"D-{fault.kind}"
        return str(FaultPlace(place.thread, label, fault.location, kind))
