"""Rebuilds the journal of a damaged campaign from what is in its folder.

The test cases are what cannot be had again, and they are files: findings and runs that are still to be settled are
replayed and get their rows anew, runs that covered something are replayed for the pairs that they cover and the cover
points that they meet. What they do not tell (how many runs were done, in what time, which tasks are under way) comes
from rows of the old journal that are as they were written, as far as there are any; so those figures are lower bounds
afterwards.

A file counts where it is a test case of this campaign, has the name of its content and goes as it says; no other is
run. Nothing is deleted: what was damaged is moved to a folder `damaged-N` beside. The new journal appears whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from fuzzvm.campaigns import integrity, own_code, settings
from fuzzvm.campaigns.errors import CampaignError, DamagedError
from fuzzvm.campaigns.folder import ASIDE, Folder, full_disk
from fuzzvm.campaigns.guilty import GuiltyPair
from fuzzvm.campaigns.integrity import Possible
from fuzzvm.campaigns.journal import (
    COUNT,
    DIFFERS,
    SETTLED,
    UNSETTLED,
    FailingRow,
    FindingRow,
    Journal,
    OpenTask,
    Sums,
)
from fuzzvm.campaigns.replays import Replayed, replays
from fuzzvm.campaigns.rows import Row
from fuzzvm.campaigns.salvage import salvage
from fuzzvm.campaigns.settings import Settings, Written
from fuzzvm.corpus import store
from fuzzvm.corpus.format import TestCase
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_text
from fuzzvm.files.writing import write
from fuzzvm.machine.schedule import format_schedule
from fuzzvm.mitigations import registry
from fuzzvm.processes.parallel import cores
from fuzzvm.verify.matrix import Cell

FOUND = "found before the journal was rebuilt"
UNKNOWN_ENGINE = "unknown engine"
_TASK = re.compile(r"\btask ([0-9]{1,15})\b")
_SCENARIO = re.compile(r"\bin scenario ([^;]+)")
_ENGINE = re.compile(r"found by ([a-z]+), seed ")


@dataclass
class Recovered:
    """What came of it. `damage` is what was wrong, '' for nothing, and then nothing was done.

    `left_out` has a line for each file and each figure that could not be taken in; `aside` is where what was damaged
    lies now, None where nothing had to be moved.
    """

    damage: str
    findings: int = 0
    unsettled: int = 0
    pairs: int = 0
    runs: int = 0
    left_out: list[str] = field(default_factory=list)
    aside: Path | None = None


@dataclass(frozen=True)
class _Known:
    """The rows of the old journal that are as they were written, and possible."""

    figures: dict[str, float]
    done: dict[tuple[int, str], Sums]
    open_tasks: list[OpenTask]
    pairs: dict[tuple[int, int], int]
    failing: list[FailingRow]
    findings: dict[str, FindingRow]
    events: list[tuple[float, str]]
    cover: list[tuple[int, str, bool]]


def recover(
    path: Path,
    *,
    named: Sequence[str] = (),
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recovered:
    """Rebuild the journal of a campaign, if something is wrong with it; `named` are mitigations that may run.

    Raises CampaignError where that cannot be done, for one if nothing says any more what was searched; and as
    `own_code.to_run` does. `on_progress` gets how many test cases were replayed, and of how many.
    """
    folder = Folder(path)
    if not os.path.lexists(folder.settings) and not os.path.lexists(folder.journal):
        if any(map(os.path.lexists, folder.folders)):
            raise _nothing_says(folder, "both are gone")
        raise CampaignError(f"{path}: no campaign there")
    aside = _Aside(folder)
    try:
        return _recover(folder, aside, named, jobs, on_progress)
    except BaseException:
        # as it was, since nothing has come of it; once the new journal is in place, nothing raises
        with contextlib.suppress(OSError):
            aside.undo()
        raise


def _recover(
    folder: Folder,
    aside: _Aside,
    named: Sequence[str],
    jobs: int | None,
    on_progress: Callable[[int, int], None],
) -> Recovered:
    misplaced = folder.misplaced()
    with full_disk(folder):
        # nobody can hold a lock that is no file
        aside.take(one for one, _ in misplaced if one == folder.lock)
    with folder.locked():
        damage = " and ".join(f"{one.name} {why}" for one, why in misplaced) or _damage(folder)
        if not damage:
            return Recovered("")
        with full_disk(folder):
            # SQLite must not come upon what does not belong there
            aside.take(one for one, _ in folder.misplaced())
            rows = salvage(_journal_of(folder))
        written = _settings(folder, rows)
        if [row[0] for row in rows["settings"]] != [written.text]:
            # of another campaign, or of nobody knows which
            rows = {table: [] for table in rows}
        chosen = own_code.to_run(written, folder.settings, named)
        building = _Rebuilding(folder, chosen, _known(rows, chosen), Recovered(damage))
        building.replay(jobs or cores(), on_progress)
        with full_disk(folder):
            building.write(written, aside)
    return building.recovered


class _Aside:
    """A new folder in a campaign's, made when something is moved there."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder.path
        self._moves: list[tuple[Path, Path]] = []
        self.path: Path | None = None

    def take(self, paths: Iterable[Path]) -> None:
        """Move files of the folder, whatever they are, and leave those out that are not there. Raises OSError."""
        for path in [path for path in paths if os.path.lexists(path)]:
            if self.path is None:
                self.path = _free(self._folder / f"{ASIDE}{number}" for number in count(1))
                self.path.mkdir()
            # what SQLite makes while it reads may have the name of what was in its place before
            place = _free(self.path / (path.name if number == 1 else f"{path.name}.{number}") for number in count(1))
            path.rename(place)
            self._moves.append((path, place))

    def undo(self) -> None:
        """Move everything back. Raises OSError."""
        for path, place in reversed(self._moves):
            place.rename(path)
        if self.path is not None:
            self.path.rmdir()


def _free(paths: Iterator[Path]) -> Path:
    return next(path for path in paths if not os.path.lexists(path))


def _damage(folder: Folder) -> str:
    try:
        with full_disk(folder):
            written = folder.read()
            with closing(Journal(folder.journal, only_read=True, still=True)) as journal:
                integrity.check(folder, written, journal, unsettled=True)
    except DamagedError as error:
        return error.what
    return ""


def _journal_of(folder: Folder) -> Path:
    """Return the journal to read from: the one in place, else the last one that was moved aside."""
    if folder.journal.exists():
        return folder.journal
    moved = [path for path in folder.path.glob(f"{ASIDE}*/{folder.journal.name}") if path.is_file()]
    plain = [path for path in moved if not path.is_symlink() and not path.parent.is_symlink()]
    return max(plain, key=lambda path: path.stat().st_mtime_ns, default=folder.journal)


def _settings(folder: Folder, rows: dict[str, list[Row]]) -> Written:
    """Return the settings: those in their file, else those in the journal, which get their file anew.

    Raises CampaignError where there are none in either.
    """
    try:
        return folder.read()
    except DamagedError as damaged:
        for (text,) in rows["settings"]:
            try:
                return settings.parse(text, folder.settings)
            except DamagedError:
                continue
        raise _nothing_says(folder, damaged.what) from damaged


def _nothing_says(folder: Folder, why: str) -> CampaignError:
    return CampaignError(
        f"{folder.path}: neither settings.json nor the journal says any more what was searched ({why}); the test cases "
        "can be used as they are, fuzzvm corpus check looks at them"
    )


def _known(rows: dict[str, list[Row]], chosen: Settings) -> _Known:
    possible = Possible(chosen)
    failing = [FailingRow(row[0], row[1], row[2], GuiltyPair(*row[3:5]), *row[5:]) for row in rows["failing"]]
    findings = [FindingRow(row[1], row[2], GuiltyPair(*row[3:5]), *row[5:]) for row in rows["finding"]]
    done = {(row[0], row[1]): Sums(*row[2:]) for row in rows["done"]}
    return _Known(
        figures={row[0]: row[1] for row in rows["campaign"] if possible.figure(*row)},
        done={key: sums for key, sums in done.items() if possible.done(*key, sums)},
        open_tasks=[task for row in rows["open_task"] if possible.task(task := OpenTask(*row))],
        pairs={(row[0], row[1]): row[2] for row in rows["pair"] if possible.pair(row[0], row[2])},
        failing=[row for row in failing if possible.failing(row)],
        findings={row.file: row for row in findings if possible.finding(row)},
        events=[(row[0], row[1]) for row in rows["event"] if possible.event(*row)],
        cover=[(row[0], row[1], bool(row[2])) for row in rows["cover"] if possible.cover(*row)],
    )


class _Rebuilding:
    """A journal that is being rebuilt."""

    def __init__(self, folder: Folder, chosen: Settings, known: _Known, recovered: Recovered) -> None:
        self._folder = folder
        self._settings = chosen
        self._known = known
        self.recovered = recovered
        self._targets = {target: number for number, target in enumerate(chosen.targets)}
        self._texts: list[str] = []
        """What may tell of a task's number."""
        self._pairs = dict(known.pairs)
        self._cover = list(known.cover)
        self._findings: list[FindingRow] = []
        self._failing: list[FailingRow] = []
        self._to_copy: list[tuple[FailingRow, TestCase]] = []
        """Failing runs that are in no folder of runs to settle, and belong there."""

    def replay(self, jobs: int, on_progress: Callable[[int, int], None]) -> None:
        """Take in all test cases of the folder that go as they say. Raises CampaignError."""
        self._tell_of_missing()
        findings = list(self._cases(self._folder.findings, of_target=False))
        unsettled = list(self._cases(self._folder.unsettled, of_target=True))
        cases = [*findings, *unsettled, *self._cases(self._folder.corpus, of_target=True)]
        results = replays([case for _, case in cases], jobs, self._settings.hook_seconds)
        came: dict[int, Replayed] = {}
        for done, (index, result) in enumerate(results, 1):
            if isinstance(result, Replayed):
                came[index] = result
            else:
                self._leave_out(cases[index][0], result)
            on_progress(done, len(cases))
        # in their order, whatever the order in which they came
        for index, result in sorted(came.items()):
            if index < len(findings):
                self._take_finding(*cases[index], result)
        self._failing += filter(self._believed, self._known.failing)
        for index, result in sorted(came.items()):
            path, case = cases[index]
            self._texts.append(case.origin)
            if index < len(findings):
                continue
            target = self._targets[Cell.of(case)]
            for pair in result.pairs:
                # one sample at least: too few make the estimate of what is left too high
                self._pairs.setdefault((target, pair), 1)
            self._cover += [(target, point, met) for point, met in result.cover]
            if index < len(findings) + len(unsettled):
                self._take_unsettled(path, case, result)
            elif case.expect.error:
                self._take_covering(case, result)

    def _believed(self, row: FailingRow) -> bool:
        """Return whether a way to fail needs no settling any more.

        Where a finding is gone, all ways to fail in its manner are open again: they would never be found anew.
        """
        if row.state == DIFFERS:
            return True
        mitigation = self._settings.targets[row.target].mitigation
        there = {(one.mitigation, one.error) for one in self._findings}
        files = {one.file for one in self._findings}
        gone = {(one.mitigation, one.error) for name, one in self._known.findings.items() if name not in files}
        way = (mitigation, row.error)
        return row.state == SETTLED and way in there and way not in gone

    def _tell_of_missing(self) -> None:
        """Note the test cases that the old journal knew and that are in no file any more."""
        folder = self._folder
        known = [(folder.findings, name) for name in self._known.findings]
        known += [(folder.unsettled, row.file) for row in self._known.failing if row.state == UNSETTLED]
        for path in sorted(parent / name for parent, name in known):
            if not path.exists():
                self._leave_out(path, "it is not there any more")

    def _cases(self, folder: Path, *, of_target: bool) -> Iterable[tuple[Path, TestCase]]:
        """Yield the files of a folder that are test cases of this campaign."""
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix != ".toml":
                continue
            try:
                case = integrity.named_case(self._folder, self._folder.case(folder, path.name))
            except DamagedError as error:
                self._leave_out(path, error.what.removeprefix(f"{folder.name}/{path.name}").lstrip(": "))
                continue
            if case.mitigation not in self._settings.mitigations() or (
                of_target and Cell.of(case) not in self._targets
            ):
                self._leave_out(path, "it is of something that this campaign does not search")
                continue
            yield path, case

    def _leave_out(self, path: Path, why: str) -> None:
        self.recovered.left_out.append(f"{path.parent.name}/{path.name}: {why}")

    def _take_finding(self, path: Path, case: TestCase, result: Replayed) -> None:
        row = self._known.findings.get(path.name)
        if row is None or (row.mitigation, row.error, row.pair) != (case.mitigation, case.expect.error, result.pair):
            name = match[1].strip() if (match := _SCENARIO.search(case.origin)) else case.scenario.name
            mitigation = registry.get(case.mitigation)
            scenarios = {target.scenario.name: target.scenario for target in self._settings.targets}
            row = FindingRow(
                case.mitigation,
                case.expect.error,
                result.pair,
                format_schedule(case.schedule),
                path.name,
                name,
                match[1] if (match := _ENGINE.search(case.origin)) else UNKNOWN_ENGINE,
                result.message,
                int("proven minimal" in case.origin),
                int(not case.without and name in scenarios and scenarios[name].expected(mitigation) == "safe"),
                path.stat().st_mtime,
            )
        if _finding(row) in map(_finding, self._findings):
            self._leave_out(path, "another file has the same finding")
            return
        self._findings.append(row)

    def _take_unsettled(self, path: Path, case: TestCase, result: Replayed) -> None:
        if any(row.file == path.name for row in self._failing):
            # it was settled, and a kill has left it
            return
        way = self._way_of(case, result)
        if way in map(_way, self._failing):
            self._leave_out(path, "this way to fail is known already")
            return
        row = next((row for row in self._known.failing if row.file == path.name and _way(row) == way), None)
        self._failing.append(row or FailingRow(0, *way, FOUND, result.message, UNSETTLED, path.name))

    def _take_covering(self, case: TestCase, result: Replayed) -> None:
        """Take in a failing run that is known for what it covers, if nothing else is known of its way to fail."""
        way = self._way_of(case, result)
        found = {(one.mitigation, one.error, one.pair) for one in self._findings}
        if way not in map(_way, self._failing) and (case.mitigation, *way[1:]) not in found:
            row = FailingRow(0, *way, FOUND, result.message, UNSETTLED, case.file_name())
            self._failing.append(row)
            self._to_copy.append((row, case))

    def _way_of(self, case: TestCase, result: Replayed) -> tuple[int, str, GuiltyPair]:
        return self._targets[Cell.of(case)], case.expect.error, result.pair

    def write(self, written: Written, aside: _Aside) -> None:
        """Put the new journal in the old one's place, and that aside. Raises OSError, sqlite3.Error, FileError."""
        folder = self._folder
        building = Path(tempfile.mkdtemp(prefix=".recover-", dir=folder.path))
        try:
            # files before the rows that name them
            for row, case in self._to_copy:
                path, _ = store.save(case, folder.unsettled)
                self._failing[self._failing.index(row)] = replace(row, file=path.name)
            with closing(Journal.create(building / folder.journal.name, written.text)) as journal:
                self._fill(journal)
                journal.commit()
                self.recovered.runs = journal.runs()
            # the settings before the journal: cut off in between, there is still one of both that says what is searched
            if _text_of(folder.settings) != written.text:
                aside.take([folder.settings])
                write(folder.settings, written.text, own_name=True)
            aside.take(folder.of_journal)
            # and the count first: a journal that it is not of is damaged, and so is one without
            for name in (COUNT, folder.journal.name):
                (building / name).rename(folder.path / name)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        self.recovered.findings = len(self._findings)
        self.recovered.unsettled = sum(row.state == UNSETTLED for row in self._failing)
        self.recovered.pairs = len(self._pairs)
        self.recovered.aside = aside.path
        if "next_task" not in self._known.figures:
            what = "the number of tasks that were begun: runs that were done may be done again"
            self.recovered.left_out.append(what)

    def _fill(self, journal: Journal) -> None:
        known = self._known
        for name in ("seconds", "begun", "last_new"):
            journal.set_value(name, known.figures.get(name, 0))
        numbers = [task.number for task in known.open_tasks]
        for text in (*self._texts, *(row.found for row in self._failing)):
            numbers += map(int, _TASK.findall(text))
        next_task = int(known.figures.get("next_task", 1))
        journal.set_value("next_task", max([next_task, *(number + 1 for number in numbers)]))
        journal.set_value("rebuilt", time.time())
        for (target, engine), sums in known.done.items():
            journal.add_done(target, engine, sums)
        for task in known.open_tasks:
            journal.add_open(task)
        for (target, pair), samples in sorted(self._pairs.items()):
            journal.add_pairs(target, {pair: samples})
        for row in self._failing:
            journal.add_failing(row.target, row.error, row.pair, row.found, row.message, row.file, row.state)
        for finding in self._findings:
            journal.add_finding(finding)
        for target, point, met in self._cover:
            journal.add_cover(target, [(point, met)])
        for when, what in known.events:
            journal.say(what, when)
        journal.say(f"the journal was rebuilt: {self.recovered.damage}")


def _way(row: FailingRow) -> tuple[int, str, GuiltyPair]:
    return row.target, row.error, row.pair


def _finding(row: FindingRow) -> tuple[str, str, GuiltyPair, str]:
    return row.mitigation, row.error, row.pair, row.schedule


def _text_of(path: Path) -> str | None:
    try:
        return read_text(path, settings.MAX_BYTES)
    except FileError:
        return None
