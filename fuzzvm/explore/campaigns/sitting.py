"""Begins a campaign in a folder, or goes on with one: everything around the loop of `run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count, zip_longest
from pathlib import Path

from fuzzvm.explore.campaign import Cell
from fuzzvm.explore.campaigns.folder import Folder, full_disk
from fuzzvm.explore.campaigns.journal import SETTLED, Journal
from fuzzvm.explore.campaigns.local import LocalExecutor
from fuzzvm.explore.campaigns.run import Campaign, State, TaskExecutor, first_signal_ends
from fuzzvm.explore.campaigns.settings import Settings
from fuzzvm.explore.campaigns.tasks import Result, Target, Task, perform
from fuzzvm.scenario.system import default_memory


def targets(cells: Sequence[Cell]) -> tuple[Target, ...]:
    """Return what cells search, each target once: those of all mitigations in turn, as a search may end early."""
    of_each = [
        [Target(cell.mitigation_name, one, cell.memory or default_memory(one), cell.without) for one in cell.scenarios]
        for cell in cells
    ]
    return tuple(dict.fromkeys(target for turn in zip_longest(*of_each) for target in turn if target is not None))


def new_folder() -> Path:
    """Return a folder for a campaign that was given none: named by the time."""
    now = time.strftime("%Y-%m-%d-%H%M%S")
    names = (Path("campaigns") / f"{now}{more}" for more in chain([""], (f"-{number}" for number in count(2))))
    return next(path for path in names if not path.exists())


def local(settings: Settings) -> TaskExecutor:
    """Return what runs tasks on this machine."""
    executor: LocalExecutor[Task, Result] = LocalExecutor(perform, settings.jobs, settings.hook_seconds)
    return executor


def begin(
    path: Path,
    settings: Settings,
    on_progress: Callable[[State], None],
    *,
    executor: Callable[[Settings], TaskExecutor] = local,
) -> State:
    """Begin a campaign and run it; return how far it has come. Raises as `Campaign.run`, and CampaignError.

    `executor` makes what runs the tasks.
    """
    folder = Folder(path)
    folder.create()
    with folder.locked():
        with full_disk(folder):
            # the settings come last: with them it is a campaign, and has all that one needs
            Journal(folder.journal, new=True).close()
        folder.begin(settings)
        return _sit(folder, settings, on_progress, executor)


def resume(
    path: Path,
    on_progress: Callable[[State], None],
    *,
    jobs: int | None = None,
    more_seconds: float | None = None,
    more_runs: int | None = None,
    executor: Callable[[Settings], TaskExecutor] = local,
) -> State:
    """Go on with a campaign: with what is left of its budget, or with so much more than it has used.

    Raises as `begin`.
    """
    folder = Folder(path)
    settings = folder.read(to_run=True)
    with folder.locked():
        if more_seconds is not None or more_runs is not None:
            journal = Journal(folder.journal)
            used = journal.value("seconds"), journal.runs() + sum(task.runs for task in journal.open_tasks())
            journal.close()
            settings = replace(
                settings,
                seconds=None if more_seconds is None else used[0] + more_seconds,
                runs=None if more_runs is None else used[1] + more_runs,
            )
        return _sit(folder, replace(settings, jobs=jobs or settings.jobs), on_progress, executor)


def _sit(
    folder: Folder,
    settings: Settings,
    on_progress: Callable[[State], None],
    start: Callable[[Settings], TaskExecutor],
) -> State:
    with full_disk(folder):
        journal = Journal(folder.journal)
        journal.say("a sitting begins")
        folder.sweep(row.file for row in journal.failing(SETTLED))
        executor = start(settings)
    campaign = Campaign(folder, settings, journal, executor)
    undo = first_signal_ends(campaign.state, lambda: executor.close(0))
    try:
        campaign.run(on_progress)
    finally:
        undo()
        with full_disk(folder):
            journal.close()
    return campaign.state
