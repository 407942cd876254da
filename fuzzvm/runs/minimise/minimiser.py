"""The minimiser: fewest context switches, then fewest steps, then the smallest scenario, then fewest relaxations.

It keeps the error's id and the function that it happens in. Named passes make the failing run smaller until none of
them does; then the shortest-path search over all states finds the best run of that scenario and proves that there is
no better one, where it fits its bound.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.exhaustive import shortest_failure
from fuzzvm.machine.errors import Failure, StoppedError, UnkeyableError
from fuzzvm.machine.execution import MAX_STEPS, Chooser, Execution, Replay, execute
from fuzzvm.machine.memory import searchable
from fuzzvm.machine.schedule import context_switches
from fuzzvm.machine.task import Task
from fuzzvm.runs.minimise.landmarks import FollowLandmarks, landmarks
from fuzzvm.runs.minimise.smaller_scenarios import size, smaller_scenarios
from fuzzvm.runs.plans.plan import FollowPlan, Plan
from fuzzvm.scenario import preconditions
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.target import Code, Target
from fuzzvm.supervision import inside
from fuzzvm.supervision.folder import same_folder

DEFAULT_BUDGET = 1_500_000
"""Machine steps that the passes may spend: a few seconds."""

MAX_STATES = {"sc": 500_000, "tso": 20_000}
"""States that the proof may visit, by memory model: about a second, and 200 MB at the most."""

MAX_STATES_ELSEWHERE = 2_000

Progress = Callable[[str], None]


@dataclass(slots=True)
class StepBudget:
    """Machine steps that may be spent; a number and not a time, so that the result is the same everywhere."""

    steps: int

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.steps <= 0


@dataclass(frozen=True)
class Minimised:
    """A minimal test case. `proven` says that no run of its scenario fails so with fewer switches, then steps."""

    case: TestCase
    proven: bool

    @property
    def how(self) -> str:
        """How sure the result is, in the words of the reports."""
        return "proven minimal" if self.proven else "reduced"

    def with_origin(self, origin: str) -> Minimised:
        """Return it with a line on where it comes from."""
        return replace(self, case=replace(self.case, origin=origin))


class NotFailingError(Exception):
    """The test case to minimise does not fail."""


class Minimiser:
    """The best failing run so far, and the passes that look for a better one.

    `case` is a run of `task`. `task_on` returns the task that has another scenario; without it, the scenario stays.
    """

    def __init__(
        self,
        case: TestCase,
        task: Task,
        budget: StepBudget,
        max_states: int | None,
        task_on: Callable[[Scenario], Task] | None = None,
    ) -> None:
        self._max_states = max_states
        self._memory = case.memory
        self._task_on = task_on
        self._budget = budget
        self.scenario = case.scenario
        self._keeps_preconditions = not preconditions.breach(case.scenario)
        self._task = task
        self.best = self._execute(self._task, Replay(case.schedule), MAX_STEPS)
        if self.best.failure is None:
            raise NotFailingError("the test case does not fail, so there is nothing to minimise")
        self.failure: Failure = self.best.failure
        self.proven = False

    def run(self, progress: Progress) -> None:
        """Apply passes until none of them makes the run smaller, then prove it, and begin anew if that found better."""
        while not self._budget.spent:
            for improve in (
                self.remove_bursts,
                self.swap_bursts,
                self.shorten_bursts,
                self.remove_relaxations,
                self.shrink_scenario,
            ):
                progress(improve.__name__)
                while improve():
                    progress(improve.__name__)
            progress(self.prove.__name__)
            if not self.prove():
                return

    # Passes: each returns whether it made the run smaller.

    def remove_bursts(self) -> bool:
        """Leave out one burst, or join it to its agent's next one. Never more context switches afterwards."""
        bursts = self._plan().bursts
        for index in range(len(bursts)):
            if self._try_plan((*bursts[:index], *bursts[index + 1 :])):
                return True
            for later in range(index + 1, len(bursts)):
                if bursts[later][0] == bursts[index][0]:
                    joined = (bursts[index][0], bursts[index][1] + bursts[later][1])
                    if self._try_plan((*bursts[:index], joined, *bursts[index + 1 : later], *bursts[later + 1 :])):
                        return True
                    break
        return False

    def swap_bursts(self) -> bool:
        """Swap two neighbouring bursts, which joins those of one agent. Keeps all steps, never more switches."""
        bursts = self._plan().bursts
        return any(
            self._try_plan((*bursts[:index], bursts[index + 1], bursts[index], *bursts[index + 2 :]))
            for index in range(len(bursts) - 1)
        )

    def shorten_bursts(self) -> bool:
        """Halve a burst, or take one step off it. Never more context switches afterwards, and fewer steps."""
        bursts = self._plan().bursts
        for index, (agent, steps) in enumerate(bursts):
            for fewer in {steps // 2, steps - 1}:
                if 0 < fewer < steps and self._try_plan((*bursts[:index], (agent, fewer), *bursts[index + 1 :])):
                    return True
        return False

    def remove_relaxations(self) -> bool:
        """Let one step more go as under sequential consistency. Never more switches, never more steps."""
        values = self._plan().values
        return any(
            self._try(replace(self._plan(), values=(*values[:index], 0, *values[index + 1 :])))
            for index, value in enumerate(values)
            if value
        )

    def shrink_scenario(self) -> bool:
        """Make the scenario smaller where the race goes the same way in it. Never more switches, never more steps.

        No scenario that keeps the preconditions of the kernel's API becomes one that breaks them in every order.
        """
        if self._task_on is None:
            return False
        machine = self._task.machine()
        marks = landmarks(machine, self.best.schedule)
        for scenario, renumbered in self._smaller():
            try:
                task = self._task_on(scenario)
            except ScenarioError:
                continue
            # the kernel's own threads are numbered after the scenario's CPUs
            threads = range(len(self.scenario.cpus), self._task.cpus)
            agents = renumbered | dict(zip(threads, range(len(scenario.cpus), task.cpus), strict=True))
            run = self._execute(task, FollowLandmarks(marks, agents))
            if not (self._fails_the_same(run) and self._key(run, scenario) < self._key(self.best, self.scenario)):
                continue
            if self._keeps_preconditions and preconditions.breach(scenario):
                continue
            self.scenario, self._task, self.best = scenario, task, run
            return True
        return False

    def prove(self) -> bool:
        """Find the run with fewest switches, then fewest steps. Guarantees what `proven` says.

        Proves nothing under a memory model that cannot be searched exhaustively, past the bound on states, and with a
        mitigation whose state cannot be told from its variables.
        """
        if not searchable(self._memory):
            return False
        limit = self._max_states or MAX_STATES.get(self._memory, MAX_STATES_ELSEWHERE)
        try:
            schedule, self.proven = shortest_failure(
                self._task, error=self.failure.error, function=self.failure.function, max_states=limit
            )
        except UnkeyableError:
            return False
        if schedule is None:
            return False
        run = self._execute(self._task, Replay(schedule), MAX_STEPS)
        if self._key(run, self.scenario) >= self._key(self.best, self.scenario):
            return False
        self.best = run
        return True

    # What they share

    def _smaller(self) -> Iterator[tuple[Scenario, dict[int, int]]]:
        return smaller_scenarios(self.scenario)

    def _plan(self) -> Plan:
        return Plan.of(self.best.schedule)

    def _try_plan(self, bursts: tuple[tuple[int, int], ...]) -> bool:
        return self._try(replace(self._plan(), bursts=bursts))

    def _try(self, plan: Plan) -> bool:
        if self._budget.spent:
            return False
        run = self._execute(self._task, FollowPlan(plan))
        if self._fails_the_same(run) and self._key(run, self.scenario) < self._key(self.best, self.scenario):
            self.best = run
            return True
        return False

    def _execute(self, task: Task, chooser: Chooser, max_steps: int = 0) -> Execution:
        run = execute(task.machine(), chooser, max_steps or min(2 * len(self.best.schedule) + 100, MAX_STEPS))
        self._budget.steps -= run.steps
        return run

    def _fails_the_same(self, run: Execution) -> bool:
        failure = run.failure
        return failure is not None and (failure.error, failure.function) == (self.failure.error, self.failure.function)

    def _key(self, run: Execution, scenario: Scenario) -> tuple[int, int, tuple[int, ...], int]:
        relaxations = sum(value > 0 for step in run.schedule for value in step[1:])
        return context_switches(run.schedule), len(run.schedule), size(scenario), relaxations


@contextlib.contextmanager
def time_for_minimiser(until: float | None) -> Iterator[None]:
    """End the body at `until`, by the monotonic clock, where this process is guarded."""
    seconds = None if until is None else max(0.0, until - time.monotonic())
    over = "the time for the minimiser is over"
    with contextlib.suppress(StoppedError), inside.bounded(StoppedError, name=over, seconds=seconds, lag=0):
        yield


@same_folder()
def minimise(
    case: TestCase,
    code: Code,
    *,
    budget: int = DEFAULT_BUDGET,
    max_states: int | None = None,
    until: float | None = None,
    progress: Progress = lambda name: None,
) -> Minimised:
    """Return the smallest test case found that fails as `case` does.

    `budget` bounds the work of the passes, in machine steps, and `max_states` that of the proof
    (None: what suits the memory model), so the result does not depend on the machine's speed; unless it is cut short,
    at `until` by the monotonic clock where this process is guarded. Raises NotFailingError where the case does not
    fail, ScheduleError where its schedule does not fit, and ImageError as `minimise_on_image` does.
    """
    if not isinstance(code, type):
        # imported here: ELF and disassembly are needed for nothing else
        from fuzzvm.runs.minimise.image_minimise import minimise_on_image

        return minimise_on_image(case, code, budget=budget, max_states=max_states, until=until, progress=progress)
    target = Target(code, case.scenario, case.memory, case.without)

    def task_on(scenario: Scenario) -> Task:
        return target.on(scenario).task_ending(case.expect.error)

    work = Minimiser(case, task_on(case.scenario), StepBudget(budget), max_states, task_on)
    with time_for_minimiser(until):
        work.run(progress)
    failing = Execution(work.best.schedule, work.best.failure)
    minimal = replace(case, scenario=work.scenario, schedule=work.best.schedule, expect=Expectation.of(failing))
    return Minimised(minimal, work.proven)
