"""Runs test cases of a campaign's folder again, in workers: what each fails by, covers and meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fuzzvm.campaigns.errors import CampaignError
from fuzzvm.campaigns.executor import Died
from fuzzvm.campaigns.guilty import GuiltyPair, guilty_pair
from fuzzvm.campaigns.local import LocalExecutor
from fuzzvm.campaigns.tasks import Broken, Crashed, guarded, happened_in, pair_key, system_of
from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.machine.errors import ProgramError, ScheduleError
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations import registry
from fuzzvm.runs.case_features import CoveringReplay
from fuzzvm.runs.coverage import InterleavingCoverage
from fuzzvm.runs.happened import Happened
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.verify.matrix import Cell

ATTEMPTS = 3
"""Times that a case is tried whose worker dies."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run went as its test case says. `message` is that of the failure, '' for none.

    `cover` has the cover points that its target is for, and whether the run has met each.
    """

    pair: GuiltyPair
    message: str
    pairs: frozenset[int]
    cover: tuple[tuple[str, bool], ...]


Outcome: TypeAlias = "Replayed | str"
"""Or in a few words why the run did not go as its test case says."""


def replays(cases: Sequence[TestCase], jobs: int, hook_seconds: float) -> Iterator[tuple[int, Outcome]]:
    """Run cases again in `jobs` processes; yields the index of each and what came of it, when it is done.

    Raises CampaignError where a mitigation cannot be run, and RuntimeError for a bug of fuzzvm.
    """
    executor: LocalExecutor[TestCase, Outcome | Broken | Crashed] = LocalExecutor(_perform, jobs, hook_seconds)
    deaths: Counter[int] = Counter()
    waiting = list(range(len(cases)))[::-1]
    left = len(cases)
    try:
        while left:
            while waiting and executor.room > 0:
                number = waiting.pop()
                executor.submit(number, cases[number])
            for report in executor.wait(1.0):
                if isinstance(report, Died):
                    if report.by_user_code:
                        raise CampaignError(report.how)
                    deaths[report.key] += 1
                    if deaths[report.key] < ATTEMPTS:
                        waiting.append(report.key)
                        continue
                    result: Outcome | Broken | Crashed = f"its worker dies: {report.how}"
                else:
                    result = report.result
                if isinstance(result, Broken):
                    raise CampaignError(result.message)
                if isinstance(result, Crashed):
                    raise RuntimeError(result.text)
                left -= 1
                yield report.key, result
    finally:
        executor.close(0)


def _perform(case: TestCase) -> Outcome | Broken | Crashed:
    return guarded(f"a replay of {case.file_name()}", lambda: _replay(case))


def _replay(case: TestCase) -> Outcome:
    mitigation = registry.get(case.mitigation)
    coverage, happened = InterleavingCoverage(), Happened()
    try:
        system = system_of(Cell.of(case))
        chooser = CoveringReplay(case.schedule, coverage)
        execution = execute(happened.machine(system), chooser)
        chooser.finish()
        happened.ended(system)
        got = Expectation.of(execution)
        if got != case.expect:
            return f"it gives {got}, and not {case.expect}"
        pair = guilty_pair(case, mitigation)
    except (ProgramError, ScenarioError, ScheduleError) as error:
        return f"it no longer replays: {error}"
    message = "" if execution.failure is None else execution.failure.message
    return Replayed(pair, message, frozenset(map(pair_key, coverage.current)), happened_in(happened, system))
