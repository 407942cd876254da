"""Writes certificates as docs/certificate.md has them, for `fuzzvm-check` to check.

Nothing here is believed by anybody: a certificate that is wrong is rejected.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fuzzvm.exhaustive.automaton import Node
from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.explorer import all_moves
from fuzzvm.exhaustive.limits import Limits, Watch
from fuzzvm.exhaustive.needs import Assumed
from fuzzvm.exhaustive.reduced_search import foresee
from fuzzvm.exhaustive.space import Lane, Space, ways_of
from fuzzvm.exhaustive.stages import SHARE_OF_PRE_PASS
from fuzzvm.exhaustive.verdict import Verdict, no_collection
from fuzzvm.kernel.contexts import Taken, irq_conflict
from fuzzvm.machine.errors import NO_PROGRESS
from fuzzvm.machine.execution import MAX_STEPS
from fuzzvm.machine.ops import Barrier
from fuzzvm.machine.schedule import Step, format_schedule
from fuzzvm.scenario.digest import task_digest
from fuzzvm.verify.matrix import Cell

MAGIC = b"fuzzvm certificate 1\n"


class CertifyError(Exception):
    """There is no certificate of a verdict: one line that says why."""


@dataclass(frozen=True)
class Certificate:
    """A certificate's bytes, and the number of states in it: 0 for a bug."""

    content: bytes
    states: int


def certify(cell: Cell, verdict: Verdict, limits: Limits) -> Certificate:
    """Return the certificate of a cell's verdict; without reductions, so that it may have more states than the search.

    Raises CertifyError for a verdict that proves nothing, and where `limits` cut the states off.
    """
    if verdict.verdict == "bug":
        return _of_bug(cell, verdict)
    if verdict.verdict != "safe" or not verdict.complete:
        why = verdict.stopped or f"nothing has {', '.join(verdict.missing)}"
        raise CertifyError(f"{verdict.verdict}, {why}")
    if cell.scenario.interrupts:
        raise CertifyError("the checker knows nothing of the locks that interrupts share: a scenario with interrupts")
    with no_collection():
        listed, orders = _all_states(cell, limits)
    header = {
        "verdict": "safe",
        **_task(cell),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "states": len(listed.parents),
        "steps": [list(step) for step in listed.table],
        "facts": [[kind, which.value if isinstance(which, Barrier) else which] for kind, which in listed.facts],
        "claims": [list(claim) for claim in listed.claims],
        "locals": listed.claim_of,
        "entries": sorted(listed.entries),
        "orders": orders,
    }
    return Certificate(_packed(header, listed.columns()), len(listed.parents))


def _of_bug(cell: Cell, verdict: Verdict) -> Certificate:
    failure, schedule = verdict.failure, verdict.schedule
    assert failure is not None
    if schedule is None:
        raise CertifyError(f"its schedule was not found: {verdict.stopped}")
    if failure.error == NO_PROGRESS and len(schedule) >= MAX_STEPS:
        raise CertifyError("a run that never ends is not shown by a part of it")
    what = {"error": failure.error, "function": failure.function, "schedule": format_schedule(schedule)}
    return Certificate(_packed({"verdict": "bug", **_task(cell), **what}, b""), 0)


def _task(cell: Cell) -> dict[str, Any]:
    return {
        "scenario": cell.scenario.to_data(),
        "mitigation": cell.mitigation,
        "memory": cell.memory,
        "without": list(cell.without),
        "task": task_digest(cell.scenario, cell.mitigation, cell.memory, cell.without),
    }


def _packed(header: dict[str, Any], columns: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    return MAGIC + zlib.compress(text + columns, 9)


@dataclass
class Listed:
    """All states of a space, breadth first, by their numbers in the certificate."""

    parents: list[int] = field(default_factory=lambda: [0])
    steps: list[int] = field(default_factory=lambda: [0])
    table: dict[Step, int] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    facts: dict[tuple[str, int | Barrier | None], int] = field(default_factory=dict)
    claims: dict[tuple[int, ...], int] = field(default_factory=dict)
    claim_of: list[int] = field(default_factory=list)
    """The claim of each local state, in the order in which they are met."""
    entries: frozenset[int] = frozenset()

    def columns(self) -> bytes:
        """Return parents, as differences to the one before, steps and ranks, of four bytes each."""
        found = b""
        deltas = [0, *(after - before for before, after in zip(self.parents, self.parents[1:], strict=False))]
        for column in (deltas, self.steps, self.ranks):
            numbers = array("I", column)
            if sys.byteorder == "big":
                numbers.byteswap()
            found += numbers.tobytes()
        return found


class _Lister:
    """Lists the states of a space. `all_known` says whether the claims of all local states met are final."""

    def __init__(self, space: Space, watch: Watch) -> None:
        self._space = space
        self._watch = watch
        self._assumed: Assumed | None = space.assumed
        self._met: set[tuple[int, int]] = set()
        self._listed = Listed()
        self.all_known = True

    def run(self) -> Listed:
        """Return them. Raises StoppedError, OutdatedError."""
        space, listed, watch = self._space, self._listed, self._watch
        start = space.start
        if not isinstance(start, int):
            raise CertifyError(f"a run goes wrong before its first step: {start.error}")
        numbers = {start: 0}
        before: list[list[int]] = [[]]
        ends = []
        lanes = {lane.cpu: lane for lane in space.lanes}
        for lane in space.lanes:
            self._meet(lane, start)
        moves = all_moves(space)
        waiting = deque([start])
        look = watch.next_look
        while waiting:
            state = waiting.popleft()
            number = numbers[state]
            is_end = True
            for agent, entry in moves(state):
                for way in ways_of(entry):
                    is_end = False
                    if way.finding is not None:
                        raise CertifyError(f"a step goes wrong: {way.finding.error}")
                    following = state + way.delta
                    if agent in lanes:
                        self._meet(lanes[agent], following)
                    if following not in numbers:
                        numbers[following] = len(numbers)
                        before.append([])
                        listed.parents.append(number)
                        step = (agent, *way.choices)
                        listed.steps.append(listed.table.setdefault(step, len(listed.table)))
                        waiting.append(following)
                    before[numbers[following]].append(number)
            if is_end:
                if (finding := space.ended(state)) is not None:
                    raise CertifyError(f"a run ends wrongly: {finding.error}")
                ends.append(number)
            if len(numbers) >= look:
                watch.look(len(numbers))
                look = watch.next_look
        listed.ranks = _ranks(before, ends)
        if self._assumed is not None:
            listed.entries = self._assumed.entries
        return listed

    def _meet(self, lane: Lane, state: int) -> None:
        """Note what is assumed of a CPU's local state, if it is met for the first time."""
        local = lane.local(state)
        if self._assumed is None or not local or (lane.cpu, local) in self._met:
            return
        self._met.add((lane.cpu, local))
        self._claim(lane.cpu, lane.nodes[local], self._assumed)

    def _claim(self, cpu: int, node: Node, assumed: Assumed) -> None:
        listed = self._listed
        self.all_known = self.all_known and assumed.knew(cpu, node)
        named = assumed.named(assumed.at(cpu, node, 0))
        claim = tuple(sorted(listed.facts.setdefault(fact, len(listed.facts)) for fact in named))
        listed.claim_of.append(listed.claims.setdefault(claim, len(listed.claims)))


def _ranks(before: list[list[int]], ends: list[int]) -> list[int]:
    """Return how many steps lead from each state to an end; `before` are the states before each."""
    ranks: dict[int, int] = dict.fromkeys(ends, 0)
    waiting = deque(ends)
    while waiting:
        state = waiting.popleft()
        for earlier in before[state]:
            if earlier not in ranks:
                ranks[earlier] = ranks[state] + 1
                waiting.append(earlier)
    if len(ranks) < len(before):
        raise CertifyError("there is a state from which no end can be reached")
    return [ranks[state] for state in range(len(before))]


def _all_states(cell: Cell, limits: Limits) -> tuple[Listed, list[list[int]]]:
    """Return all states of a cell, and the orders of locks that oracles remember in them."""
    deadline = Deadline(limits)
    watched: frozenset[Taken] = frozenset()
    while True:
        # a system that no search has seen: memory remembers the keys of the first one
        system = cell.system()
        system.lock_order.watched = watched
        space = Space(system)
        foresee(space, deadline.left(SHARE_OF_PRE_PASS))
        listed = list_states(space, deadline)
        seen = system.lock_order.in_cycles()
        if irq_conflict(system.lock_order.seen):
            raise CertifyError("a lock that an interrupt takes is held where the interrupt may come")
        if seen <= watched:
            return listed, sorted([one.held, one.taken] for one in watched)
        watched |= seen


def list_states(space: Space, deadline: Deadline) -> Listed:
    """Return all states of a space, listed when all that its CPUs do was known beforehand."""

    def run() -> tuple[Listed, bool]:
        lister = _Lister(space, Watch(deadline.left()))
        return lister.run(), lister.all_known

    while True:
        listed, final = space.settled(run)
        if final:
            return listed
        space.renew()
