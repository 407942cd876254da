"""The loop of a campaign: hands out tasks, takes in results, and writes both down so that nothing is lost.

The order of writing, for a result: files first (a failing run, a finding, a run that covered something), then the rows
of the journal that name them, in one transaction with the end of the task. Killed in between, there is a file that no
row names: its task is run again, comes to the same, and finds the file there. The other way round there would be a
finding that was reported and is gone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from fuzzvm.campaigns.errors import CampaignError, NondeterministicError
from fuzzvm.campaigns.estimate import samples_by_target, undiscovered_by_target
from fuzzvm.campaigns.executor import Died, Done, Executor
from fuzzvm.campaigns.folder import Folder, full_disk
from fuzzvm.campaigns.integrity import unsettled_case
from fuzzvm.campaigns.journal import (
    DIFFERS,
    MANY,
    SETTLED,
    UNSETTLED,
    FailingRow,
    FindingRow,
    Journal,
    OpenTask,
    Sums,
)
from fuzzvm.campaigns.settings import EVEN, Settings
from fuzzvm.campaigns.shares import FINDING, TimeShares
from fuzzvm.campaigns.tasks import (
    Broken,
    CampaignResult,
    CampaignTask,
    Crashed,
    NotTheSame,
    Searched,
    SearchTask,
    Settled,
    SettleTask,
)
from fuzzvm.corpus import store
from fuzzvm.files.printable import printable_lines
from fuzzvm.files.writing import write
from fuzzvm.machine.schedule import format_schedule
from fuzzvm.mitigations import registry

ATTEMPTS = 3
ATTEMPTS_IF_KILLED = 10
"""Times that a task is tried whose worker dies: of the task, and by kills that may have meant any process."""
TASK_SECONDS = 0.5
"""CPU seconds that a task is meant to take: what a kill costs. More where jobs are so many that tasks end too often."""
TASKS_PER_SECOND = 200
"""Tasks that end in a second, at most: to take one in costs a campaign, and a scheduler of a cluster, a millisecond."""
RUNS_AT_FIRST = 100
RUNS_AT_MOST = 5000
GRACE = 0.7
"""Seconds that tasks under way get to end after Ctrl-C, of the two until the command has ended."""
LATE_SECONDS = 1.7
LATE = 0.09
"""By how much a campaign may exceed its time, as seconds or as a part of it, for what is under way to end."""
SETTLE_SECONDS = 0.3
"""That a failing run is minimised at least, however late."""
SAMPLE_SECONDS = 10.0

TaskExecutor: TypeAlias = Executor[CampaignTask, CampaignResult]
Report: TypeAlias = "Done[CampaignResult] | Died"


@dataclass
class State:
    """How far a campaign has come. `seconds` is of all sittings, the other times since 1970."""

    runs: int = 0
    pairs: int = 0
    findings: int = 0
    unsettled: int = 0
    seconds: float = 0.0
    sitting_runs: int = 0
    sitting_seconds: float = 0.0
    last_new: float = 0.0
    interrupted: bool = False


@dataclass
class _Rate:
    """How many runs a task of a target gets, so that it takes the time that it is meant to."""

    seconds: float = TASK_SECONDS
    runs: int = RUNS_AT_FIRST

    def learn(self, runs: int, cpu_seconds: float) -> None:
        wanted = int(self.seconds * runs / max(cpu_seconds, 1e-6))
        at_most = int(RUNS_AT_MOST * self.seconds / TASK_SECONDS)
        self.runs = min(max(wanted, self.runs // 2, 10), 2 * self.runs, at_most)


@dataclass
class _UnderWay:
    task: CampaignTask
    row: OpenTask | FailingRow
    deaths: list[Died] = field(default_factory=list)


class Campaign:
    """One sitting of a campaign: from the moment that the folder is locked to the end of the budget, or a Ctrl-C."""

    def __init__(self, folder: Folder, settings: Settings, journal: Journal, executor: TaskExecutor) -> None:
        self._folder = folder
        self._settings = settings
        self._journal = journal
        self._executor = executor
        self._covered = journal.pairs()
        self._samples = samples_by_target(journal.sums())
        self._ways = {(row.target, row.error, row.pair) for row in journal.failing()}
        self._targets = TimeShares(range(len(settings.targets)))
        self._engines = TimeShares(settings.engines)
        task_seconds = max(TASK_SECONDS, settings.jobs / TASKS_PER_SECOND)
        self._rates = [_Rate(task_seconds) for _ in settings.targets]
        self._under_way: dict[int, _UnderWay] = {}
        self._to_repeat: deque[OpenTask] = deque(journal.open_tasks())
        self._to_settle: deque[FailingRow] = deque(journal.failing(UNSETTLED))
        self._keys = 0
        self._planned = journal.runs() + sum(task.runs for task in self._to_repeat)
        self._began = time.monotonic()
        self._seconds_before = journal.value("seconds")
        self._sampled = 0.0
        findings = journal.findings()
        self.state = State(
            runs=journal.runs(),
            pairs=len(self._covered),
            findings=len(findings),
            unsettled=len(self._to_settle),
            seconds=self._seconds_before,
            last_new=journal.value("last_new"),
        )
        self._found: set[str] = set()
        for finding in findings:
            self._drop_known(finding.mitigation)

    def run(self, on_progress: Callable[[State], None] = lambda state: None) -> None:
        """Run tasks until the budget is used up, nothing is left to find, or `state.interrupted` is set.

        Raises CampaignError, and RuntimeError for a bug of fuzzvm. The journal holds all that came before.
        """
        try:
            while True:
                self._hand_out()
                self._commit()
                if not self._under_way:
                    break
                with full_disk(self._folder):
                    # a worker that died is replaced here, which the system may refuse
                    reports = self._executor.wait(0.25)
                self._take_in(reports)
                self._time()
                on_progress(self.state)
                if self.state.interrupted or self._late:
                    break
            self._take_in(self._executor.close(GRACE if self.state.interrupted else 0))
        finally:
            self._executor.close(0)
        self._commit(last=True)

    # What is next

    def _hand_out(self) -> None:
        while not self.state.interrupted and self._executor.room > 0:
            chosen = self._next()
            if chosen is None:
                return
            self._keys += 1
            self._under_way[self._keys] = chosen
            self._executor.submit(self._keys, chosen.task)

    def _next(self) -> _UnderWay | None:
        if row := self._next_to_settle():
            case = unsettled_case(self._folder, self._settings, row)
            left = self._left
            seconds = None if left is None else max(left, SETTLE_SECONDS)
            return _UnderWay(SettleTask(row.id, case, row.found, seconds), row)
        if self._to_repeat:
            return self._search(self._to_repeat.popleft())
        if self._over or not self._targets:
            return None
        target, engine, runs = self._plan()
        if self._settings.runs is not None:
            runs = min(runs, self._settings.runs - self._planned)
        self._planned += runs
        with full_disk(self._folder):
            return self._search(self._journal.begin_task(target, engine, runs))

    def _next_to_settle(self) -> FailingRow | None:
        """Return the failing run that is next to be settled, if one is.

        Where a mitigation is to be searched until a bug is found, one of its failing runs is, and the others wait for
        a sitting that wants them all.
        """
        settling = [one.row for one in self._under_way.values() if isinstance(one.row, FailingRow)]
        # a mitigation that fails everywhere must not stop the search for as long as all that takes to be minimised
        if len(settling) >= max(1, self._settings.jobs // 2):
            return None
        busy = {self._settings.targets[row.target].mitigation for row in settling} | self._found
        for row in self._to_settle:
            if self._settings.keep_going or self._settings.targets[row.target].mitigation not in busy:
                self._to_settle.remove(row)
                return row
        return None

    def _plan(self) -> tuple[int, str, int]:
        settings = self._settings
        if settings.schedule_by == EVEN:
            number = int(self._journal.value("next_task")) - 1
            # the engines change fastest, so that each target has had one of them early
            target, engine = divmod(number, len(settings.engines))
            return target % len(settings.targets), settings.engines[engine], settings.even_runs
        target = self._targets.next()
        return target, self._engines.next(), self._rates[target].runs

    @property
    def _over(self) -> bool:
        settings = self._settings
        if settings.runs is not None and self._planned >= settings.runs:
            return True
        return settings.seconds is not None and self.state.seconds >= settings.seconds

    @property
    def _left(self) -> float | None:
        """How many seconds are left of the budget, None where time is none of it."""
        return None if self._settings.seconds is None else max(0.0, self._settings.seconds - self.state.seconds)

    @property
    def _late(self) -> bool:
        """Whether the campaign has gone on past its time for longer than it may."""
        seconds = self._settings.seconds
        return seconds is not None and self.state.seconds >= seconds + max(LATE_SECONDS, LATE * seconds)

    def _search(self, row: OpenTask) -> _UnderWay:
        settings = self._settings
        seed = settings.seed * 1_000_003 + row.number
        target = settings.targets[row.target]
        return _UnderWay(SearchTask(row.number, target, row.engine, seed, row.runs, self._left), row)

    # What has come

    def _take_in(self, reports: Sequence[Report]) -> None:
        for report in reports:
            one = self._under_way[report.key]
            if isinstance(report, Died):
                self._again(report, one)
                continue
            result = report.result
            if isinstance(result, Broken):
                self._end_badly(CampaignError(result.message))
            elif isinstance(result, Crashed):
                self._end_badly(RuntimeError(result.text))
            elif isinstance(result, NotTheSame):
                assert isinstance(one.row, FailingRow)
                self._not_the_same(one.row, result)
            else:
                with full_disk(self._folder):
                    if isinstance(result, Searched):
                        assert isinstance(one.row, OpenTask)
                        self._searched(one.row, result)
                    else:
                        assert isinstance(one.row, FailingRow)
                        self._settled(one.row, result)
            del self._under_way[report.key]

    def _end_badly(self, error: Exception) -> None:
        """Raise an error, when all that came before it is in the journal."""
        self._commit()
        raise error

    def _again(self, died: Died, one: _UnderWay) -> None:
        one.deaths.append(died)
        with full_disk(self._folder):
            self._journal.say(f"a worker died in {one.task}: {died.how}")
        if died.by_user_code:
            self._end_badly(CampaignError(f"{died.how} ({one.task})"))
        of_itself = sum(not death.by_others for death in one.deaths)
        if of_itself >= ATTEMPTS or len(one.deaths) >= ATTEMPTS_IF_KILLED:
            causes = Counter(death.how for death in one.deaths)
            how = ", ".join(f"{count} times {cause}" for cause, count in causes.items())
            self._end_badly(CampaignError(f"{one.task} has cost {len(one.deaths)} workers: {how}"))
        self._executor.submit(died.key, one.task)

    def _searched(self, row: OpenTask, result: Searched) -> None:
        news = 0
        for first in sorted(result.covered, key=lambda one: len(one.pairs), reverse=True):
            fresh = {pair for pair in first.pairs if (row.target, pair) not in self._covered}
            if not fresh:
                continue
            news += len(fresh)
            store.save(first.case, self._folder.corpus)
            self._covered |= {(row.target, pair): 0 for pair in fresh}
        counted = {}
        for pair in frozenset[int]().union(*(first.pairs for first in result.covered)):
            # beyond that nothing goes by it, and nothing is written
            if (samples := self._covered[row.target, pair]) < MANY:
                counted[pair] = self._covered[row.target, pair] = samples + 1
        self._journal.add_pairs(row.target, counted)
        # an engine that measures coverage itself does not say which pairs it has seen
        self._samples[row.target] += bool(result.covered)
        failing = 0
        for one in result.failing:
            way = (row.target, one.case.expect.error, one.pair)
            if way in self._ways:
                continue
            failing += 1
            self._ways.add(way)
            scenario = one.case.scenario.name
            found = f"found by {row.engine}, seed {self._settings.seed}, task {row.number}, run {one.run}" + (
                f", in scenario {scenario}" if scenario else ""
            )
            path, _ = store.save(one.case, self._folder.unsettled)
            self._journal.add_failing(row.target, one.case.expect.error, one.pair, found, one.message, path.name)
            self.state.unsettled += 1
            self._to_settle.append(self._journal.failing(UNSETTLED)[-1])
        self._journal.add_cover(row.target, result.cover)
        self._journal.end_task(
            row, Sums(1, result.runs, result.steps, result.cpu_seconds, news, failing, bool(result.covered))
        )
        if news or failing:
            self._new()
        paid = news + FINDING * failing
        self._targets.ended(row.target, paid, result.cpu_seconds)
        self._engines.ended(row.engine, paid, result.cpu_seconds)
        self._rates[row.target].learn(result.runs, result.cpu_seconds)
        self.state.runs += result.runs
        self.state.sitting_runs += result.runs
        self.state.pairs += news

    def _settled(self, row: FailingRow, result: Settled) -> None:
        case = result.case
        target = self._settings.targets[row.target]
        schedule = format_schedule(case.schedule)
        known = any(
            (one.mitigation, one.error, one.pair, one.schedule)
            == (case.mitigation, case.expect.error, result.pair, schedule)
            for one in self._journal.findings()
        )
        if not known:
            # the file before the row that names it, see the head of this module
            path, _ = store.save(case, self._folder.findings)
            if self._settings.corpus is not None:
                store.save(case, Path(self._settings.corpus))
            self._journal.add_finding(
                FindingRow(
                    case.mitigation,
                    case.expect.error,
                    result.pair,
                    schedule,
                    path.name,
                    target.scenario.name,
                    row.found.removeprefix("found by ").split(",")[0],
                    row.message,
                    result.proven,
                    not case.without and target.scenario.expected(registry.get(case.mitigation)) == "safe",
                    time.time(),
                )
            )
            self.state.findings += 1
            self._new()
        self._journal.settle(row.id, SETTLED)
        self._commit()
        # it is only now that nobody needs the run as it was found
        self._folder.case(self._folder.unsettled, row.file).unlink(missing_ok=True)
        self.state.unsettled -= 1
        self._drop_known(case.mitigation)

    def _drop_known(self, mitigation: str) -> None:
        """Search no further in a mitigation for which there is a finding, unless all of the budget is to be used."""
        self._found.add(mitigation)
        if not self._settings.keep_going:
            for number, target in enumerate(self._settings.targets):
                if target.mitigation == mitigation:
                    self._targets.drop(number)

    def _not_the_same(self, row: FailingRow, result: NotTheSame) -> None:
        case = result.case
        with full_disk(self._folder):
            path, _ = store.save(case, self._folder.evidence)
            told = printable_lines(f"{row.found}\n{case.expect}\n{result.what}\n")
            write(path.with_suffix(".txt"), told, own_name=True)
            self._journal.settle(row.id, DIFFERS)
        whose = (
            f"{case.mitigation} or what it imports"
            if registry.is_path(case.mitigation) or case.mitigation not in registry.shipped()
            else "fuzzvm"
        )
        self._end_badly(
            NondeterministicError(
                f"{whose} depends on more than the schedule: {case.expect} ({row.found}) does not happen again: "
                f"{result.what}; kept in {path}"
            )
        )

    def _new(self) -> None:
        self.state.last_new = time.time()
        self._journal.set_value("last_new", self.state.last_new)

    def _time(self) -> None:
        self.state.sitting_seconds = time.monotonic() - self._began
        self.state.seconds = self._seconds_before + self.state.sitting_seconds

    def _commit(self, *, last: bool = False) -> None:
        self._time()
        with full_disk(self._folder):
            self._journal.set_value("seconds", self.state.seconds)
            now = time.monotonic()
            if last or now - self._sampled >= SAMPLE_SECONDS:
                self._sampled = now
                left = sum(undiscovered_by_target(self._covered, self._samples).values())
                self._journal.sample(self.state.runs, self.state.pairs, self.state.findings, left)
            self._journal.commit()
