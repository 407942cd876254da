"""Many runs of one stretch of an interactive system: of the calls that its CPUs have been given and not begun.

Each run begins at boot, follows the schedule so far, and goes on by a plan of its own. Plans are drawn as those of the
engine `hypothesis` are: a plan orders the accesses that the runs before it have shown to race. The system itself does
not move.
"""

from __future__ import annotations

from collections.abc import Sequence

from fuzzvm.machine.execution import Chooser, Execution, Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.schedule import Schedule
from fuzzvm.runs.plans.orders import FollowOrders, Orders, Source
from fuzzvm.scenario.interactive import InteractiveSystem
from fuzzvm.scenario.system import System

FEW = 4
"""Runs of a stretch after which no more follow, if no CPU has touched what another one freed."""


class Stretch:
    """The runs of the stretch that begins where a system stands now."""

    def __init__(self, system: InteractiveSystem) -> None:
        self._interactive = system
        self._orders = Orders()
        self.runs = 0
        """How many runs there were."""

    def look_for_bug(self, source: Source, most: int) -> Execution | None:
        """Return a run from boot on that fails, or None where none of up to `most` runs does.

        Raises as `System` does and as `execute` does.
        """
        if not most:
            return None
        begun, schedule = self._interactive.system, self._interactive.schedule
        system = System(self._interactive.scenario, begun.mitigation, begun.memory, begun.mitigation_name)
        while self.runs < most and (self.runs < FEW or self._orders.races.freed):
            self.runs += 1
            chooser = self.follow(source)
            execution = execute(system.machine(), After(schedule, chooser))
            if execution.failure is not None:
                return execution
            chooser.end()
        return None

    def follow(self, source: Source) -> FollowOrders:
        """Return the chooser of the next run from here on; its `end` is to be called after the run."""
        return FollowOrders(self._orders.draw(source), self._orders)


class After:
    """The chooser that follows the beginning of a schedule to the letter, and then another chooser."""

    def __init__(self, begun: Schedule, chooser: Chooser) -> None:
        self._left = len(begun)
        self._replay = Replay(begun)
        self._chooser: Chooser = self._replay if begun else chooser
        self._then = chooser

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        if not self._left:
            if self._chooser is not self._then:
                self._replay.finish()
                self._chooser = self._then
            return self._then.agent(enabled, machine)
        self._left -= 1
        return self._replay.agent(enabled, machine)

    def value(self, ways: int) -> int:
        return self._chooser.value(ways)
