"""Begins a campaign in a folder, or goes on with one: everything around the loop of `run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, count, zip_longest
from pathlib import Path

from fuzzvm.campaigns import integrity, own_code
from fuzzvm.campaigns.errors import CampaignError
from fuzzvm.campaigns.folder import Folder, full_disk
from fuzzvm.campaigns.journal import SETTLED, Journal
from fuzzvm.campaigns.local import LocalExecutor
from fuzzvm.campaigns.plain import FuzzCell
from fuzzvm.campaigns.run import Campaign, State, TaskExecutor
from fuzzvm.campaigns.settings import Settings, Written
from fuzzvm.campaigns.signals import first_signal_ends
from fuzzvm.campaigns.tasks import CampaignResult, CampaignTask, perform
from fuzzvm.files.shell import word
from fuzzvm.processes.parallel import cores
from fuzzvm.verify.matrix import Cell

JOBS_PER_CORE = 8
"""Processes that a campaign's folder may ask for: no more than its user may have meant on a machine like this."""


def targets(cells: Sequence[FuzzCell]) -> tuple[Cell, ...]:
    """Return what cells search, each target once: those of all mitigations in turn, as a search may end early."""
    of_each = [[Cell.naming(target) for target in cell.targets] for cell in cells]
    return tuple(dict.fromkeys(target for turn in zip_longest(*of_each) for target in turn if target is not None))


def new_folder() -> Path:
    """Return a folder for a campaign that was given none: named by the time."""
    now = time.strftime("%Y-%m-%d-%H%M%S")
    names = (Path("campaigns") / f"{now}{more}" for more in chain([""], (f"-{number}" for number in count(2))))
    return next(path for path in names if not path.exists())


def local(settings: Settings) -> TaskExecutor:
    """Return what runs tasks on this machine."""
    executor: LocalExecutor[CampaignTask, CampaignResult] = LocalExecutor(perform, settings.jobs, settings.hook_seconds)
    return executor


def begin(
    path: Path,
    settings: Settings,
    on_progress: Callable[[State], None],
    *,
    executor: Callable[[Settings], TaskExecutor] = local,
    on_signal: Callable[[], object] = lambda: None,
) -> State:
    """Begin a campaign and run it; return how far it has come. Raises as `Campaign.run`, and CampaignError.

    `executor` makes what runs the tasks. `on_signal` is called when Ctrl-C or another signal has asked for the end.
    """
    folder = Folder(path)
    folder.create()
    own_code.fix_texts(settings.mitigations())
    with folder.locked():
        folder.begin(settings)
        return _sit(folder, folder.read(), settings, on_progress, executor, on_signal)


def resume(
    path: Path,
    on_progress: Callable[[State], None],
    *,
    jobs: int | None = None,
    more_seconds: float | None = None,
    more_runs: int | None = None,
    executor: Callable[[Settings], TaskExecutor] = local,
    named: Sequence[str] = (),
    corpus: Path | None = None,
    on_signal: Callable[[], object] = lambda: None,
) -> State:
    """Go on with a campaign: with what is left of its budget, or with so much more than it has used.

    `named` are the mitigations of the user's own that may run, and `corpus` the folder outside that gets findings: what
    reaches beyond the campaign's folder is for the user to name, and not for the folder. Raises as `begin`.
    """
    folder = Folder(path)
    written = folder.read()
    settings = own_code.to_run(written, folder.settings, named)
    if settings.corpus is not None and corpus is None:
        raise CampaignError(
            f"{folder.settings}: the campaign copies its findings to {settings.corpus}: say so again, with --corpus "
            f"{word(settings.corpus)} or another folder"
        )
    settings = replace(settings, corpus=None if corpus is None else str(corpus.absolute()), jobs=_jobs(settings, jobs))
    with folder.locked():
        if more_seconds is not None or more_runs is not None:
            with closing(Journal(folder.journal, only_read=True)) as journal:
                used = journal.value("seconds"), journal.runs() + sum(task.runs for task in journal.open_tasks())
            settings = replace(
                settings,
                seconds=None if more_seconds is None else used[0] + more_seconds,
                runs=None if more_runs is None else used[1] + more_runs,
            )
        return _sit(folder, written, settings, on_progress, executor, on_signal)


def _jobs(settings: Settings, jobs: int | None) -> int:
    """Return in how many processes a campaign goes on. Raises CampaignError where its folder asks for far too many."""
    most = JOBS_PER_CORE * cores()
    if jobs is None and settings.jobs > most:
        raise CampaignError(
            f"the campaign was begun with {settings.jobs} processes, and this machine has {cores()} cores: say --jobs"
        )
    return jobs or settings.jobs


def _sit(
    folder: Folder,
    written: Written,
    settings: Settings,
    on_progress: Callable[[State], None],
    start: Callable[[Settings], TaskExecutor],
    on_signal: Callable[[], object],
) -> State:
    with full_disk(folder):
        journal = Journal(folder.journal)
    try:
        with full_disk(folder):
            integrity.check(folder, written, journal, unsettled=True)
            journal.say("a sitting begins")
            folder.sweep(row.file for row in journal.failing(SETTLED))
            executor = start(settings)
        campaign = Campaign(folder, settings, journal, executor)
        with first_signal_ends(campaign.state, first=on_signal, second=lambda: executor.close(0)):
            campaign.run(on_progress)
    finally:
        with full_disk(folder):
            journal.close()
    return campaign.state
