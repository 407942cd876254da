"""What a campaign's folder says of it, to one who only looks: also while it runs, and after it was killed."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzvm.campaigns import integrity
from fuzzvm.campaigns.errors import DamagedError
from fuzzvm.campaigns.estimate import samples_by_target, undiscovered_by_target
from fuzzvm.campaigns.folder import Folder
from fuzzvm.campaigns.journal import DIFFERS, UNSETTLED, FailingRow, FindingRow, Journal, Sample, Sums, told
from fuzzvm.campaigns.settings import Settings, Written
from fuzzvm.runs.happened import ENOUGH_RUNS

LATELY = 60.0
"""Seconds that the present number of runs a second is taken over."""


@dataclass(frozen=True)
class MitigationStatus:
    """What there is on one mitigation. `expected` is what it claims over the scenarios, None for nothing.

    `cover` has for each scenario and memory model the cover points that it is for, and whether a run has met them;
    `vacuous` those in which there were enough runs to say that some are met in none. `unsettled` are runs that failed
    and that nobody had the time to check.
    """

    mitigation: str
    sums: Sums
    findings: tuple[FindingRow, ...]
    expected: str | None
    cover: dict[str, dict[str, bool]] = field(default_factory=dict)
    vacuous: tuple[str, ...] = ()
    unsettled: tuple[FailingRow, ...] = ()

    @property
    def verdict(self) -> str:
        """`bug` where a run has failed, checked or not, `vacuous`, or `safe`: none did, no more."""
        if self.findings or self.unsettled:
            return "bug"
        return "vacuous" if self.vacuous else "safe"

    @property
    def as_expected(self) -> bool | None:
        """Whether the verdict is the claimed one, and no scenario claimed safe has failed; None without a claim."""
        if any(finding.claimed_safe for finding in self.findings):
            return False
        return None if self.expected is None else self.verdict == self.expected


@dataclass(frozen=True)
class TargetStatus:
    """What there is on one target. `undiscovered` estimates the pairs that were not seen, None where nothing does."""

    mitigation: str
    scenario: str
    memory: str
    sums: Sums
    undiscovered: float | None


@dataclass(frozen=True)
class Status:
    """A campaign as it stands. `seconds` is of all sittings; `last_new` is seconds ago, None for never.

    `undiscovered` estimates how many pairs were not seen in those targets that have an estimate, None where none has.
    """

    folder: Path
    running: bool
    settings: Settings
    sums: Sums
    seconds: float
    runs_per_second_lately: float | None
    pairs: int
    undiscovered: float | None
    last_new: float | None
    targets: tuple[TargetStatus, ...]
    samples: tuple[Sample, ...]
    mitigations: tuple[MitigationStatus, ...]
    engines: dict[str, Sums]
    findings: tuple[FindingRow, ...]
    unsettled: tuple[FailingRow, ...]
    differing: tuple[FailingRow, ...]
    open_tasks: int
    rebuilt: float
    """When its journal was rebuilt, in seconds since 1970, 0 for never: runs before that may be missing."""
    events: tuple[tuple[float, str], ...]

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or there is a finding for each mitigation and that is all that was wanted."""
        if self.open_tasks:
            return False
        settings = self.settings
        if settings.runs is not None and self.sums.runs >= settings.runs:
            return True
        if settings.seconds is not None and self.seconds >= settings.seconds:
            return True
        return not settings.keep_going and all(one.findings for one in self.mitigations)

    @property
    def verdict(self) -> str:
        """`bug` where a run has failed, checked or not, `vacuous` where one mitigation's verdict is, else `safe`."""
        if self.findings or self.unsettled:
            return "bug"
        return "vacuous" if any(one.vacuous for one in self.mitigations) else "safe"

    def path(self, finding: FindingRow) -> Path:
        """Return the file of a finding."""
        folder = Folder(self.folder)
        return folder.case(folder.findings, finding.file)

    def to_data(self) -> dict[str, Any]:
        """Return it as the plain data that `--json` prints."""
        return {
            "campaign": str(self.folder),
            "running": self.running,
            "finished": self.finished,
            "verdict": self.verdict,
            "bug": self.findings[0].error if self.findings else None,
            "runs": self.sums.runs,
            "steps": self.sums.steps,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.sums.cpu_seconds, 3),
            "runs_per_second": round(self.sums.runs / max(self.seconds, 1e-9), 1),
            "runs_per_second_lately": self.runs_per_second_lately,
            "coverage": self.pairs,
            "pairs_undiscovered": _rounded(self.undiscovered),
            "seconds_since_last_new": None if self.last_new is None else round(self.last_new, 1),
            "saved": [str(self.path(finding)) for finding in self.findings],
            "open_tasks": self.open_tasks,
            "rebuilt": self.rebuilt or None,
            "budget": {"seconds": self.settings.seconds, "runs": self.settings.runs},
            "searches": [
                {
                    "mitigation": one.mitigation,
                    "verdict": one.verdict,
                    "expected": one.expected,
                    "as_expected": one.as_expected,
                    "runs": one.sums.runs,
                    "steps": one.sums.steps,
                    "cpu_seconds": round(one.sums.cpu_seconds, 3),
                    "coverage": one.sums.pairs,
                    "happened": one.cover,
                    "vacuous": list(one.vacuous),
                    "findings": [
                        {
                            "bug": finding.error,
                            "function": finding.pair.failed,
                            "freed_by": finding.pair.freed,
                            "scenario": finding.scenario,
                            "engine": finding.engine,
                            "message": finding.message,
                            "proven_minimal": bool(finding.proven),
                            "time": finding.time,
                            "saved": str(self.path(finding)),
                        }
                        for finding in one.findings
                    ],
                }
                for one in self.mitigations
            ],
            "engines": {
                name: {
                    "runs": sums.runs,
                    "cpu_seconds": round(sums.cpu_seconds, 3),
                    "coverage": sums.pairs,
                    "failing": sums.failing,
                }
                for name, sums in self.engines.items()
            },
            "targets": [
                {
                    "mitigation": one.mitigation,
                    "scenario": one.scenario,
                    "memory": one.memory,
                    "runs": one.sums.runs,
                    "cpu_seconds": round(one.sums.cpu_seconds, 3),
                    "coverage": one.sums.pairs,
                    "pairs_undiscovered": _rounded(one.undiscovered),
                    "failing": one.sums.failing,
                }
                for one in self.targets
            ],
            "unsettled": [str(Folder(self.folder).unsettled / row.file) for row in self.unsettled],
            "not_reproducible": [row.found for row in self.differing],
            "samples": [one._asdict() for one in self.samples],
            "events": [{"time": when, "what": what} for when, what in self.events],
        }


def read(path: Path) -> Status:
    """Return the status of the campaign in a folder. Raises CampaignError, DamagedError."""
    folder = Folder(path)
    written = folder.read()
    # before the journal: one that ends meanwhile must not be called ended with figures from before its end
    running = folder.running()
    try:
        return _read(folder, written, running=running)
    except DamagedError:
        if running or not folder.running():
            raise
        # it has begun meanwhile: what looked damaged may have been written to
        return _read(folder, written, running=True)


def _read(folder: Folder, written: Written, *, running: bool) -> Status:
    try:
        with contextlib.closing(Journal(folder.journal, only_read=True, still=not running)) as journal:
            # files that are still to be settled come and go while it runs
            integrity.check(folder, written, journal, unsettled=not running)
            return _of(folder, written.settings, journal, running=running)
    except sqlite3.Error as error:
        raise told(error, folder.journal) from error


def _of(folder: Folder, settings: Settings, journal: Journal, *, running: bool) -> Status:
    by_task = journal.sums()
    findings = tuple(journal.findings())
    unsettled = tuple(journal.failing(UNSETTLED))
    now = time.time()
    samples = tuple(journal.samples(0.0))
    recent = [one for one in samples if one.time >= now - LATELY]
    lately = None
    if running and len(recent) > 1 and recent[-1].time > recent[0].time:
        lately = round((recent[-1].runs - recent[0].runs) / (recent[-1].time - recent[0].time), 1)
    last_new = journal.value("last_new")
    claims = dict(settings.claims)

    def sums_of(targets: Iterable[int]) -> Sums:
        chosen = frozenset(targets)
        return sum((sums for (target, _), sums in by_task.items() if target in chosen), Sums())

    pairs = journal.pairs()
    left = undiscovered_by_target(pairs, samples_by_target(by_task))
    cover = journal.cover()
    names = {number: f"{target.scenario.name}, {target.memory}" for number, target in enumerate(settings.targets)}

    def status_of(mitigation: str) -> MitigationStatus:
        own = [number for number, target in enumerate(settings.targets) if target.mitigation == mitigation]
        missed = [number for number in own if not all(cover.get(number, {}).values())]
        return MitigationStatus(
            mitigation,
            sums_of(own),
            tuple(finding for finding in findings if finding.mitigation == mitigation),
            claims.get(mitigation),
            {names[number]: cover[number] for number in own if number in cover},
            tuple(names[number] for number in missed if sums_of([number]).runs >= ENOUGH_RUNS),
            tuple(row for row in unsettled if settings.targets[row.target].mitigation == mitigation),
        )

    mitigations = tuple(map(status_of, settings.mitigations()))
    return Status(
        folder=folder.path,
        running=running,
        settings=settings,
        sums=sum(by_task.values(), Sums()),
        seconds=journal.value("seconds"),
        runs_per_second_lately=lately,
        pairs=len(pairs),
        undiscovered=sum(left.values()) if left else None,
        targets=tuple(
            TargetStatus(target.mitigation, target.scenario.name, target.memory, sums_of([number]), left.get(number))
            for number, target in enumerate(settings.targets)
        ),
        samples=samples,
        last_new=now - last_new if last_new else None,
        mitigations=mitigations,
        engines={
            name: sum((sums for (_, engine), sums in by_task.items() if engine == name), Sums())
            for name in settings.engines
        },
        findings=findings,
        unsettled=unsettled,
        differing=tuple(journal.failing(DIFFERS)),
        open_tasks=len(journal.open_tasks()),
        rebuilt=journal.value("rebuilt"),
        events=tuple(journal.events()),
    )


def _rounded(estimate: float | None) -> float | None:
    return None if estimate is None else round(estimate, 1)
