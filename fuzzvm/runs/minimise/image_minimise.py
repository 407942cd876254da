"""The minimiser on runs of kernel images: it works on the task that is searched, and returns what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fuzzvm.compiled.run.every_access import fewer_steps
from fuzzvm.corpus.format import TestCase
from fuzzvm.images.code import ImageCode
from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.schedule import Schedule, context_switches
from fuzzvm.runs.minimise.minimiser import DEFAULT_BUDGET, Minimised, Minimiser, StepBudget, time_for_minimiser
from fuzzvm.scenario.target import Code


def minimise_on_image(
    case: TestCase,
    code: Code,
    *,
    budget: int = DEFAULT_BUDGET,
    max_states: int | None = None,
    until: float | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Minimised:
    """Return the smallest run found of the same scenario that fails as `case` does; options are those of `minimise`.

    Steps that no other CPU can tell do not count, so that a run of as many switches may have more of these. Raises
    NotFailingError, ConversionError where the run has no counterpart in the task that is searched, ScheduleError where
    its schedule does not fit.
    """
    assert isinstance(code, ImageCode)
    steps = StepBudget(budget)
    every = code.task(case.scenario, case.memory)
    few = code.task_to_search(case.scenario, case.memory)
    while True:
        few, schedule = fewer_steps(every, case.schedule, few)
        try:
            work = Minimiser(replace(case, schedule=schedule), few, steps, max_states)
            with time_for_minimiser(until):
                work.run(progress)
            break
        except OutdatedProgramError:
            # from the beginning: what was found rests on what has turned out to be otherwise
            few = few.again()
    found = code.case(few, case.scenario, work.best.schedule, work.best.failure, case.origin)
    smaller = _size(found.schedule) < _size(case.schedule) or len(work.best.schedule) < len(schedule)
    return Minimised(found if smaller else case, work.proven)


def _size(schedule: Schedule) -> tuple[int, int]:
    return context_switches(schedule), len(schedule)
