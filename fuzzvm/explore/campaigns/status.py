"""What a campaign's folder says of it, to one who only looks: also while it runs, and after it was killed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzvm.explore.campaigns.errors import CampaignError
from fuzzvm.explore.campaigns.folder import Folder
from fuzzvm.explore.campaigns.journal import DIFFERS, UNSETTLED, FailingRow, FindingRow, Journal, Sums
from fuzzvm.explore.campaigns.settings import Settings

LATELY = 60.0
"""Seconds that the present number of runs a second is taken over."""


@dataclass(frozen=True)
class MitigationStatus:
    """What there is on one mitigation. `expected` is what it claims over the scenarios, None for nothing."""

    mitigation: str
    sums: Sums
    findings: tuple[FindingRow, ...]
    expected: str | None

    @property
    def as_expected(self) -> bool | None:
        """Whether the verdict is the claimed one, and no scenario claimed safe has failed; None without a claim."""
        if any(finding.claimed_safe for finding in self.findings):
            return False
        return None if self.expected is None else ("bug" if self.findings else "safe") == self.expected


@dataclass(frozen=True)
class Status:
    """A campaign as it stands. `seconds` is of all sittings; `last_new` is seconds ago, None for never."""

    folder: Path
    running: bool
    settings: Settings
    sums: Sums
    seconds: float
    runs_per_second_lately: float | None
    pairs: int
    last_new: float | None
    mitigations: tuple[MitigationStatus, ...]
    engines: dict[str, Sums]
    findings: tuple[FindingRow, ...]
    unsettled: tuple[FailingRow, ...]
    differing: tuple[FailingRow, ...]
    open_tasks: int
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

    def path(self, finding: FindingRow) -> Path:
        """Return the file of a finding."""
        return Folder(self.folder).findings / finding.file

    def to_data(self) -> dict[str, Any]:
        """Return it as the plain data that `--json` prints."""
        return {
            "campaign": str(self.folder),
            "running": self.running,
            "finished": self.finished,
            "verdict": "bug" if self.findings else "safe",
            "bug": self.findings[0].error if self.findings else None,
            "runs": self.sums.runs,
            "steps": self.sums.steps,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.sums.cpu_seconds, 3),
            "runs_per_second": round(self.sums.runs / max(self.seconds, 1e-9), 1),
            "runs_per_second_lately": self.runs_per_second_lately,
            "coverage": self.pairs,
            "seconds_since_last_new": None if self.last_new is None else round(self.last_new, 1),
            "saved": [str(self.path(finding)) for finding in self.findings],
            "open_tasks": self.open_tasks,
            "budget": {"seconds": self.settings.seconds, "runs": self.settings.runs},
            "searches": [
                {
                    "mitigation": one.mitigation,
                    "verdict": "bug" if one.findings else "safe",
                    "expected": one.expected,
                    "as_expected": one.as_expected,
                    "runs": one.sums.runs,
                    "steps": one.sums.steps,
                    "cpu_seconds": round(one.sums.cpu_seconds, 3),
                    "coverage": one.sums.pairs,
                    "findings": [
                        {
                            "bug": finding.error,
                            "function": finding.pair.failed,
                            "freed_by": finding.pair.freed,
                            "scenario": finding.scenario,
                            "engine": finding.engine,
                            "message": finding.message,
                            "proven_minimal": bool(finding.proven),
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
            "unsettled": [str(Folder(self.folder).unsettled / row.file) for row in self.unsettled],
            "not_reproducible": [row.found for row in self.differing],
            "events": [{"time": when, "what": what} for when, what in self.events],
        }


def read(path: Path) -> Status:
    """Return the status of the campaign in a folder. Raises CampaignError."""
    folder = Folder(path)
    settings = folder.read(to_run=False)
    # before the journal: one that ends meanwhile must not be called ended with figures from before its end
    running = folder.running()
    try:
        journal = Journal(folder.journal, only_read=True)
        try:
            return _of(folder, settings, journal, running=running)
        finally:
            journal.close()
    except sqlite3.Error as error:
        raise CampaignError(f"{folder.journal}: {error}") from error


def _of(folder: Folder, settings: Settings, journal: Journal, *, running: bool) -> Status:
    by_task = journal.sums()
    findings = tuple(journal.findings())
    now = time.time()
    samples = journal.samples(now - LATELY)
    lately = None
    if running and len(samples) > 1 and samples[-1][0] > samples[0][0]:
        lately = round((samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0]), 1)
    last_new = journal.value("last_new")
    claims = dict(settings.claims)

    def sums_of(targets: Iterable[int]) -> Sums:
        chosen = frozenset(targets)
        return _add(sums for (target, _), sums in by_task.items() if target in chosen)

    mitigations = tuple(
        MitigationStatus(
            name,
            sums_of(number for number, target in enumerate(settings.targets) if target.mitigation == name),
            tuple(finding for finding in findings if finding.mitigation == name),
            claims.get(name),
        )
        for name in settings.mitigations()
    )
    return Status(
        folder=folder.path,
        running=running,
        settings=settings,
        sums=_add(by_task.values()),
        seconds=journal.value("seconds"),
        runs_per_second_lately=lately,
        pairs=journal.count_pairs(),
        last_new=now - last_new if last_new else None,
        mitigations=mitigations,
        engines={
            name: _add(sums for (_, engine), sums in by_task.items() if engine == name) for name in settings.engines
        },
        findings=findings,
        unsettled=tuple(journal.failing(UNSETTLED)),
        differing=tuple(journal.failing(DIFFERS)),
        open_tasks=len(journal.open_tasks()),
        events=tuple(journal.events()),
    )


def _add(parts: Iterable[Sums]) -> Sums:
    columns = list(
        zip(*((one.tasks, one.runs, one.steps, one.cpu_seconds, one.pairs, one.failing) for one in parts), strict=True)
    )
    return Sums(*map(sum, columns)) if columns else Sums()
