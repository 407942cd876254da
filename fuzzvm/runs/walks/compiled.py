"""Walks in compiled code, for the choosers that `loops` has a loop for.

A chooser's choices are those that it makes itself, one for one: `loops` says again what `strategies.pos` and
`orders.FollowOrders` say, and tests/runs/walks compares them. numpy and numba are the extra `fast`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np

from fuzzvm.exhaustive.loop import set_all
from fuzzvm.exhaustive.space import LOCAL_MASK, SHARED_MASK, ways_of
from fuzzvm.machine.execution import MAX_STEPS, Chooser
from fuzzvm.machine.ops import OFFSET_BITS, Await, Fetch, Free, Load, Rmw, Store
from fuzzvm.machine.schedule import Step
from fuzzvm.runs.coverage import InterleavingCoverage
from fuzzvm.runs.plans.order_tree import COUNTED
from fuzzvm.runs.plans.orders import FollowOrders
from fuzzvm.runs.plans.races import Place, Races
from fuzzvm.runs.strategies.pos import Pos
from fuzzvm.runs.walks import loops
from fuzzvm.runs.walks.pairs import CompiledPairs, with_room
from fuzzvm.runs.walks.walker import Walker
from fuzzvm.supervision import stopping

BLOCK = 1024
"""Random numbers that are drawn ahead."""
_ACCESSES = (Load, Await, Fetch, Store, Rmw)


class Lent(Random):
    """A generator whose next random numbers compiled code may use: what it has not used comes next all the same."""

    block: Any = None
    used = 0
    _before: Any = None

    @classmethod
    def of(cls, random: Random) -> Lent:
        """Return a generator that goes on as `random` would."""
        lent = cls()
        lent.setstate(random.getstate())
        return lent

    def lend(self) -> None:
        """Draw the next block; all of the last one is used."""
        self._before = super().getstate()
        draw = super().random
        self.block = np.array([draw() for _ in range(BLOCK)])
        self.used = 0

    def now(self) -> tuple[Any, Any, int]:
        """Return what `back` takes to go back to here."""
        return self._before, self.block, self.used

    def back(self, then: tuple[Any, Any, int]) -> None:
        self._before, self.block, self.used = then

    def _take_back(self) -> None:
        if self.block is not None:
            super().setstate(self._before)
            draw = super().random
            for _ in range(self.used):
                draw()
            self.block = None

    def random(self) -> float:
        self._take_back()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        self._take_back()
        return super().getrandbits(k)

    def getstate(self) -> Any:
        self._take_back()
        return super().getstate()


class CompiledWalks:
    """The walks of a walker in compiled code."""

    def __init__(self, walker: Walker) -> None:
        cpus = len(walker.space.lanes)
        self._walker = walker
        self._table = np.zeros((1 << 13, 2), np.int64)
        self._in_table = 0
        self._path = np.zeros((MAX_STEPS, 2), np.int64)
        self._now = np.zeros(loops.NOW, np.int64)
        self._locals = np.zeros(cpus, np.int64)
        self._ready = np.zeros(cpus, np.int64)
        self._priorities = np.zeros(cpus)
        self._alone: list[Step] = [(cpu,) for cpu in range(cpus)]
        self._starts = np.array([node.number for node in walker.shared.nodes], np.int64)
        self._pairs = CompiledPairs(cpus)
        self._facts = np.zeros((cpus, 64, loops.FACTS), np.int64)
        self._known = [0] * cpus
        """How many local states of each CPU have their facts."""
        self._races: Races | None = None
        self._numbers: Mapping[Place, int] = {}
        self._version = -1
        """What the facts were made by."""

    def walk(self, chooser: Chooser, coverage: InterleavingCoverage | None, steps: list[Step]) -> bool | None:
        """Do what `Walker.walk` does; return None, and do nothing, for a chooser that is none of the loops'.

        Where it raises, the chooser is as it was, and there are no steps.
        """
        stopping.check()
        if not isinstance(self._walker.space.start, int):
            return None
        good = None
        if type(chooser) is Pos:
            good = self._walk_pos(chooser, steps)
        elif type(chooser) is FollowOrders and not chooser.plan.bursts and chooser.plan.draws:
            good = self._walk_orders(chooser, steps)
        if good is not None and coverage is not None:
            self._pairs.cover(coverage, self._walker.space.lanes, self._path[: len(steps)])
        return good

    def _walk_pos(self, pos: Pos, steps: list[Step]) -> bool:
        random = pos.random
        if not isinstance(random, Lent):
            random = pos.random = Lent.of(random)
        if random.block is None:
            random.lend()
        races = pos.races
        self._tell(races, {})
        self._now[loops.AT_DRAWN] = random.used

        def loop() -> int:
            why: int = loops.walk_pos(
                self._table,
                self._facts,
                self._locals,
                self._now,
                self._path,
                self._ready,
                self._priorities,
                random.block,
            )
            random.used = int(self._now[loops.AT_DRAWN])
            if why == loops.ASKS_DRAWS:
                random.lend()
                self._now[loops.AT_DRAWN] = 0
            return why

        begun = random.now()
        try:
            return self._go(loop, races, steps)
        except BaseException:
            random.back(begun)
            raise

    def _walk_orders(self, chooser: FollowOrders, steps: list[Step]) -> bool:
        known, plan = chooser.known, chooser.plan
        self._tell(known.races, known.numbers)
        places = len(known.numbers) + 1
        orders = np.zeros((places, max(map(len, chooser.orders.values()), default=1)), np.int64)
        lengths = np.zeros(places, np.int64)
        ranks = np.full(places, -1, np.int64)
        for rank, (number, order) in enumerate(chooser.orders.items()):
            orders[number, : len(order)] = order
            lengths[number] = len(order)
            ranks[number] = rank
        log = np.zeros(places * COUNTED * 3, np.int64)
        logged = np.zeros(places, np.int64)
        draws = np.frombuffer(plan.draws, np.uint8)
        ordered = bool(chooser.orders)
        self._now[loops.AT_DRAWN] = self._now[loops.AT_LOGGED] = 0

        def loop() -> int:
            why: int = loops.walk_orders(
                self._table,
                self._facts,
                self._locals,
                self._now,
                self._path,
                self._ready,
                self._priorities,
                draws,
                orders,
                lengths,
                ranks,
                ordered,
                log,
                logged,
            )
            return why

        good = self._go(loop, known.races, steps)
        chooser.cpus = self._locals.size
        chooser.log, chooser.logged = log, int(self._now[loops.AT_LOGGED])
        return good

    def _go(self, loop: Callable[[], int], races: Races, steps: list[Step]) -> bool:
        """Walk from the first state to an end, by a loop that comes back for what it has to be given."""
        now, walker = self._now, self._walker
        now[loops.AT_SHARED] = walker.shared.start
        now[loops.AT_STEPS] = 0
        now[loops.AT_AGENT] = -1
        now[loops.AT_LIMIT] = MAX_STEPS
        self._locals[:] = self._starts
        self._priorities[:] = -1
        while (why := loop()) > loops.WRONG:
            if why == loops.ASKS_STEP:
                self._learn_step(int(now[loops.AT_CPU]))
            elif why == loops.ASKS_GATE:
                self._learn_gate(int(now[loops.AT_CPU]))
        path = self._path[: now[loops.AT_STEPS]].tolist()
        alone = self._alone
        steps += [alone[cpu] for cpu, _ in path]
        if races.watching:
            lanes = walker.space.lanes
            for cpu, local in path:
                op = lanes[cpu].nodes[local].op
                assert op is not None
                races.note(cpu, op)
        return why == loops.ENDED and walker.ends(int(now[loops.AT_SHARED]))

    def _learn_step(self, cpu: int) -> None:
        lane = self._walker.space.lanes[cpu]
        shared, local = int(self._now[loops.AT_SHARED]), int(self._locals[cpu])
        key = shared | local << lane.shift
        entry = lane.table.get(key)
        if entry is None:
            entry = self._walker.take(cpu, key)
        ((_, delta, finding),) = ways_of(entry)
        value = loops.FAILS
        if finding is None:
            after = key + delta
            value = after & SHARED_MASK | (after >> lane.shift & LOCAL_MASK) << loops.LOCAL_AT
        self._put(cpu << loops.CPU_AT | local << loops.LOCAL_AT | shared, value)
        self._describe(cpu)

    def _learn_gate(self, cpu: int) -> None:
        lane = self._walker.space.lanes[cpu]
        shared, local = int(self._now[loops.AT_SHARED]), int(self._locals[cpu])
        goes_on = self._walker.may_go_on(cpu, shared | local << lane.shift)
        self._put(loops.GATE | cpu << loops.CPU_AT | local << loops.LOCAL_AT | shared, goes_on)

    def _put(self, key: int, value: int) -> None:
        if 2 * self._in_table > self._table.shape[0]:
            used = self._table[self._table[:, 0] != 0]
            self._table = np.zeros((4 * self._table.shape[0], 2), np.int64)
            set_all(self._table, used[:, 0] - 1, used[:, 1])
        set_all(self._table, np.array([key], np.int64), np.array([value], np.int64))
        self._in_table += 1

    def _tell(self, races: Races, numbers: Mapping[Place, int]) -> None:
        """Make the facts by what is known of races now."""
        if self._races is races and self._version == races.version:
            return
        self._races, self._numbers, self._version = races, numbers, races.version
        self._known = [0] * len(self._known)
        for cpu in range(len(self._known)):
            self._describe(cpu)

    def _describe(self, cpu: int) -> None:
        """Note the facts of those local states of a CPU that have none."""
        nodes = self._walker.space.lanes[cpu].nodes
        if self._known[cpu] == len(nodes):
            return
        self._facts = with_room(self._facts, len(nodes))
        races = self._races
        assert races is not None
        for node in nodes[self._known[cpu] :]:
            op = node.op
            if op is None:
                continue
            flags = loops.FREES * isinstance(op, Free) | loops.WRITES * isinstance(op, Store | Rmw)
            flags |= loops.RACES * races.may_race(op)
            flags |= loops.WAITS * (isinstance(op, Await | Rmw) and op.when is not None)
            address = getattr(op, "address", -1)
            place = races.place(op)
            number = self._numbers.get(place, -1) if place in races.places else -1
            touches = isinstance(op, (*_ACCESSES, Free))
            self._facts[cpu, node.number] = flags, address, address >> OFFSET_BITS if touches else -1, number
        self._known[cpu] = len(nodes)
