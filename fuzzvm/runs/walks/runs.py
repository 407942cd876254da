"""Runs systems, each in the cheapest way that does the same: as walks where memory is sc, else on machines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from fuzzvm.exhaustive.search import has_compiled
from fuzzvm.exhaustive.space import StateBoundError
from fuzzvm.exhaustive.verdict import DisagreementError
from fuzzvm.machine.errors import Failure, ScheduleError, UnkeyableError
from fuzzvm.machine.execution import Chooser, Execution, Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Annotation, Operation, Value
from fuzzvm.machine.schedule import Schedule, Step
from fuzzvm.mitigations.whose import is_users
from fuzzvm.runs.coverage import Covering, InterleavingCoverage
from fuzzvm.runs.happened import Happened
from fuzzvm.runs.plans import order_tree
from fuzzvm.runs.walks.walker import Walker
from fuzzvm.scenario.system import System

COMPILED_AFTER = order_tree.COMPILED_AFTER
"""Runs of a system after which compiled code goes on, where there is a loop for what chooses."""
MOST_STEPS = 1_000_000
"""Steps that are kept of one system; past them all are forgotten, and worked out again as they are taken."""


class Runs:
    """Runs of the systems of one search; what happens in them is noted."""

    def __init__(self, happened: Happened) -> None:
        self._happened = happened
        self._walkers: dict[int, Walker | None] = {}
        self._users: dict[int, bool] = {}

    def execute(self, system: System, chooser: Chooser, coverage: InterleavingCoverage | None = None) -> Execution:
        """Return a run of a system, whose pairs `coverage` gets; `happened.ended` is to be called after it.

        Raises as `execute` does.
        """
        if system.lock_order.learn():
            # the steps that are known tell the oracles too little
            self._walkers.pop(id(system), None)
        walker = self._walker(system)
        if walker is None:
            return execute(self._happened.machine(system), _covered(chooser, coverage))
        steps: list[Step] = []
        try:
            # what a scheme keeps in itself is no part of any state
            with system.unchanged() if self._users[id(system)] else nullcontext():
                good = self._walk(walker, chooser, coverage, steps)
        except (UnkeyableError, StateBoundError):
            # from here on, and in all later runs, on a machine
            self._walkers[id(system)] = None
            return execute(self._happened.machine(system), _GoOn(tuple(steps), _covered(chooser, coverage)))
        return Execution(tuple(steps), None) if good else self._on_a_machine(system, tuple(steps))

    def _walk(self, walker: Walker, chooser: Chooser, coverage: InterleavingCoverage | None, steps: list[Step]) -> bool:
        walker.walks += 1
        if walker.walks > COMPILED_AFTER and has_compiled():
            if walker.compiled is None:
                # imported here: it takes as long as some hundred runs
                from fuzzvm.runs.walks.compiled import CompiledWalks

                walker.compiled = CompiledWalks(walker)
            good: bool | None = walker.compiled.walk(chooser, coverage, steps)
            if good is not None:
                return good
        return walker.walk(_covered(chooser, coverage), steps)

    def _walker(self, system: System) -> Walker | None:
        number = id(system)
        walker = self._walkers.get(number)
        if number not in self._walkers or (walker is not None and walker.size > MOST_STEPS):
            walker = self._walkers[number] = self._new(system)
        return walker

    def _new(self, system: System) -> Walker | None:
        if system.memory != "sc":
            return None
        self._users[id(system)] = is_users(system.mitigation)
        points = self._happened.of(system).points

        def observe(op: Operation, stack: Sequence[str], response: Value, notes: Sequence[Annotation]) -> None:
            points.executed(op, stack, response)
            points.said(notes)

        try:
            return Walker(system, observe)
        except UnkeyableError:
            return None

    def _on_a_machine(self, system: System, schedule: Schedule) -> Execution:
        """Return the run with this schedule, which goes wrong. Raises DisagreementError where a machine denies that."""
        chooser = Replay(schedule)
        try:
            execution = execute(self._happened.machine(system), chooser)
            chooser.finish()
        except ScheduleError as error:
            differs = str(error)
        else:
            if execution.failure is not None:
                return execution
            differs = "it goes well"
        if self._users[id(system)]:
            # whoever takes the finding runs it once more, and says what the code depends on
            failure = Failure("not-reproducible", f"a machine says of the run: {differs}", None, (), len(schedule))
            return Execution(schedule, failure)
        raise DisagreementError(f"a walk of {system.scenario.name} goes wrong, and a machine says: {differs}")


def _covered(chooser: Chooser, coverage: InterleavingCoverage | None) -> Chooser:
    return chooser if coverage is None else Covering(chooser, coverage)


class _GoOn:
    """The chooser that follows the beginning of a schedule, and then another chooser."""

    def __init__(self, begun: Schedule, chooser: Chooser) -> None:
        self._begun = begun
        self._chooser = chooser
        self._next = 0

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        if self._next < len(self._begun) and (agent := self._begun[self._next][0]) in enabled:
            self._next += 1
            return agent
        self._next = len(self._begun)
        return self._chooser.agent(enabled, machine)

    def value(self, ways: int) -> int:
        return self._chooser.value(ways)
