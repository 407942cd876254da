"""Is what a campaign's journal says possible, and are the files there that it names?

`journal` has seen that its rows are those that were written. Here it is seen that they are about this campaign: a
journal may come from anybody, and its rows decide what is searched, read and deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzzvm.campaigns.errors import DamagedError
from fuzzvm.campaigns.folder import Folder, is_case_name
from fuzzvm.campaigns.journal import (
    FIGURES,
    MANY,
    SETTLED,
    STATES,
    UNSETTLED,
    FailingRow,
    FindingRow,
    Journal,
    OpenTask,
    Sums,
)
from fuzzvm.campaigns.settings import Settings, Written
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.kernel.cover_points import POINTS
from fuzzvm.kernel.errors import DESCRIPTIONS
from fuzzvm.verify.matrix import Cell

MAX_COUNT = 1 << 53
"""Of what is counted: as far as a floating point number counts exactly."""
MAX_RUNS = 10_000_000
"""Of one task, which is meant to take half a second, or half a minute on a large cluster."""
MAX_TIME = 1e11
"""Seconds since 1970, and of a campaign."""
MAX_TEXT = 100_000
"""Characters of a text in a row."""


class Possible:
    """Says which rows a journal of a campaign with these settings may have."""

    def __init__(self, settings: Settings) -> None:
        self._targets = range(len(settings.targets))
        self._engines = settings.engines
        self._mitigations = frozenset(settings.mitigations())

    def figure(self, name: str, value: float) -> bool:
        """Return whether a figure of the campaign as a whole may be so."""
        return name in FIGURES and 0 <= value < (MAX_COUNT if name == "next_task" else MAX_TIME)

    def task(self, task: OpenTask) -> bool:
        """Return whether a task may have been begun."""
        return self._of(task.target, task.engine) and 1 <= task.number < MAX_COUNT and 1 <= task.runs <= MAX_RUNS

    def done(self, target: int, engine: str, sums: Sums) -> bool:
        """Return whether so much may have been done."""
        return self._of(target, engine) and all(0 <= figure < MAX_COUNT for figure in sums.values())

    def target(self, number: int) -> bool:
        """Return whether there is a target of that number."""
        return number in self._targets

    def pair(self, target: int, samples: int) -> bool:
        """Return whether a target may have covered a pair in so many samples."""
        return self.target(target) and 1 <= samples <= MANY

    def failing(self, row: FailingRow) -> bool:
        """Return whether that may be a way to fail."""
        return row.target in self._targets and row.state in STATES and _failure(row) and _texts(row.found)

    def finding(self, row: FindingRow) -> bool:
        """Return whether that may be a finding."""
        return (
            row.mitigation in self._mitigations
            and _failure(row)
            and _texts(row.schedule, row.scenario, row.engine)
            and row.proven in (0, 1)
            and row.claimed_safe in (0, 1)
            and 0 <= row.time < MAX_TIME
        )

    def cover(self, target: int, point: str, met: int) -> bool:
        """Return whether a target may have met that cover point, or not."""
        return target in self._targets and point in POINTS and met in (0, 1)

    def event(self, when: float, what: str) -> bool:
        """Return whether that may have been noted."""
        return 0 <= when < MAX_TIME and _texts(what)

    def _of(self, target: int, engine: str) -> bool:
        return target in self._targets and engine in self._engines


def _failure(row: FailingRow | FindingRow) -> bool:
    return row.error in DESCRIPTIONS and is_case_name(row.file) and _texts(*row.pair, row.message)


def _texts(*texts: str) -> bool:
    return all(len(text) <= MAX_TEXT and text.isprintable() for text in texts)


def check(folder: Folder, written: Written, journal: Journal, *, unsettled: bool) -> None:
    """Raise DamagedError where a journal is not one of this campaign, or a file that it names is not there.

    With `unsettled`, also for the files that are still to be settled, which come and go while a campaign runs.
    """
    settings = written.settings
    if journal.settings() != written.text:
        raise DamagedError(folder.path, "the journal is of a campaign with other settings")
    possible = Possible(settings)

    def all_are(right: Callable[..., bool], rows: list[Any], table: str) -> None:
        if not all(right(row) for row in rows):
            raise DamagedError(folder.path, f"the journal has a row of {table} that is of no such campaign")

    all_are(lambda row: possible.figure(*row), journal.figures(), "campaign")
    next_task = journal.value("next_task")
    all_are(lambda task: possible.task(task) and task.number < next_task, journal.open_tasks(), "open_task")
    all_are(lambda row: possible.done(row[0][0], row[0][1], row[1]), list(journal.sums().items()), "done")
    all_are(lambda row: possible.pair(row[0][0], row[1]), list(journal.pairs().items()), "pair")
    all_are(possible.failing, journal.failing(), "failing")
    all_are(possible.finding, journal.findings(), "finding")
    all_are(lambda row: 0 <= row.time < MAX_TIME and min(row[1:]) >= 0, journal.samples(-MAX_TIME), "sample")
    all_are(lambda row: possible.event(*row), journal.events(), "event")
    all_are(lambda row: possible.cover(*row), journal.cover_rows(), "cover")
    found = {(finding.mitigation, finding.error) for finding in journal.findings()}
    if any((settings.targets[row.target].mitigation, row.error) not in found for row in journal.failing(SETTLED)):
        # such a way to fail would never be looked for again
        raise DamagedError(folder.path, "the journal has settled a way to fail, and has no finding of it")
    for finding in journal.findings():
        finding_case(folder, finding)
    for row in journal.failing(UNSETTLED) if unsettled else ():
        unsettled_case(folder, settings, row)


def finding_case(folder: Folder, row: FindingRow) -> TestCase:
    """Return the test case of a finding. Raises DamagedError where its file is not the one that the row is about."""
    case = named_case(folder, folder.case(folder.findings, row.file))
    if (case.mitigation, case.expect.error) != (row.mitigation, row.error):
        raise DamagedError(folder.path, f"{folder.findings.name}/{row.file} is not the finding that the journal has")
    return case


def unsettled_case(folder: Folder, settings: Settings, row: FailingRow) -> TestCase:
    """Return the test case of a run that is to be settled: one of the row's own target, as it is going to be run.

    Raises DamagedError where its file is another.
    """
    case = named_case(folder, folder.case(folder.unsettled, row.file))
    if Cell.of(case) != settings.targets[row.target] or case.expect.error != row.error:
        raise DamagedError(folder.path, f"{folder.unsettled.name}/{row.file} is not the run that the journal has")
    return case


def named_case(folder: Folder, path: Path) -> TestCase:
    """Return the test case in a file of the folder that has the name of its content. Raises DamagedError."""
    name = f"{path.parent.name}/{path.name}"
    try:
        case = read(path)
    except CorpusError as error:
        raise DamagedError(folder.path, str(error).replace(str(path), name)) from error
    if path.is_symlink() or case.file_name() != path.name:
        raise DamagedError(folder.path, f"{name} is not what was written")
    return case
