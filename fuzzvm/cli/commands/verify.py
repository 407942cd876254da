"""`fuzzvm verify`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import click

from fuzzvm.cli.common import (
    json_option,
    mitigation_options,
    mitigations,
    print_json,
    scenario_options,
    scenarios,
    shell_path,
    tlb_option,
    without_option,
)
from fuzzvm.cli.executor import executor_option
from fuzzvm.cli.matrix_table import print_matrix
from fuzzvm.cli.output import print_table
from fuzzvm.cli.where import Where
from fuzzvm.corpus import store
from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.explore.exhaustive import Limits
from fuzzvm.explore.exhaustive.needs import DifferentProgramsError
from fuzzvm.explore.matrix import Bounds, Cell, Run, cells, searchable
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.schedule import context_switches, format_schedule


@click.command()
@mitigation_options
@scenario_options
@click.option(
    "--memory",
    type=click.Choice(memory_models.names()),
    help="Memory model. Default: that of the scenario's architecture, and all that are stronger.",
)
@tlb_option
@without_option
@click.option("--max-states", type=click.IntRange(min=1), help="Stop each run after that many states.")
@click.option(
    "--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Stop each run after that many seconds."
)
@click.option(
    "--max-memory",
    type=click.IntRange(min=64),
    metavar="MIB",
    help="Memory for all runs of a machine together; a run that needs more stops and says so. "
    "Default: most of what is free.",
)
@click.option(
    "--preemptions",
    type=click.IntRange(min=0),
    help="Explore only schedules that interrupt a CPU at most that often when it could have gone on.",
)
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), help="Processes. Default: one a core, or a thread of a worker."
)
@executor_option
@click.option(
    "--split",
    is_flag=True,
    help="Search one run after the other, a large one in all processes at once. For runs that are few and large.",
)
@click.option(
    "--no-reduction", is_flag=True, help="Explore every order of steps that commute, however many states there are."
)
@click.option(
    "--save",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Save the shortest schedule of each bug in this folder.",
)
@click.option(
    "--html",
    "html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT",
    help="Write the matrix as a page, too, and the story of each failing run to OUT's folder.",
)
@json_option
def verify(
    mitigation_names: tuple[str, ...],
    scenario_names: tuple[str, ...],
    memory: str | None,
    tlb: bool,
    without: tuple[str, ...],
    max_states: int | None,
    max_seconds: float | None,
    max_memory: int | None,
    preemptions: int | None,
    jobs: int | None,
    executor: str | None,
    split: bool,
    no_reduction: bool,
    save: Path | None,
    html: Path | None,
    as_json: bool,
) -> int:
    """Explore every schedule: is there one that goes wrong?

    Says `safe` when there is none, and prints the shortest one when there is: fewest context switches, then fewest
    steps. A run that was cut short by a bound says so. Without --memory, each scenario runs under the memory model of
    its architecture and under all stronger ones: sc, tso and arm64, or sc and tso on x86_64. Several mitigations and
    scenarios end in a table of them all. Exit status 0 when every verdict is the documented one; a mitigation that
    documents none, or lacks an ordering point, must be safe.

    \b
    fuzzvm verify --mitigation static-key
    fuzzvm verify -m ./mine.py:MyScheme -s two-walkers --memory sc
    fuzzvm verify --executor dask://scheduler.example.org:8786
    """
    if memory is not None and not searchable(memory):
        raise click.UsageError(f"memory model {memory} cannot be searched exhaustively")
    if split and preemptions is not None:
        raise click.UsageError(
            "--split and --preemptions exclude each other: a bound on them needs one order of search"
        )
    names = [name for name, _ in mitigations(mitigation_names)]
    chosen = cells(names, scenarios(scenario_names, tlb=tlb), memory, tuple(dict.fromkeys(without)))
    if save is not None:
        store.check_writable(save)
    bounds = Bounds(Limits(max_states, max_seconds), preemptions, not no_reduction)
    where = Where(jobs, max_memory, executor, split)
    saved: dict[int, Path] = {}

    def keep(run: Run) -> None:
        if save is not None and run.verdict.schedule is not None:
            saved[id(run)] = store.save(_case(run), save)[0]

    runs, interrupted = _verify(chosen, bounds, where, keep)
    if html is not None:
        # imported here: templates are needed for nothing else
        from fuzzvm.cli.matrix_html import write_matrix

        write_matrix([(run, None if run.verdict.schedule is None else _case(run)) for run in runs], html)
    if as_json:
        print_json({"runs": [_to_json(run, saved.get(id(run))) for run in runs], "interrupted": interrupted})
    else:
        _print(runs, saved)
        if interrupted:
            click.echo(f"interrupted: {len(runs)} of {len(chosen)} runs done", err=True)
    if interrupted:
        return 130
    return 0 if all(run.as_expected for run in runs) else 1


def _verify(
    chosen: Sequence[Cell], bounds: Bounds, where: Where, keep: Callable[[Run], None]
) -> tuple[list[Run], bool]:
    """Return the runs in the order of the cells, and whether Ctrl-C ended them early; `keep` is called with each."""
    found: dict[int, Run] = {}
    show = _Progress(len(chosen))
    running = where.verify(chosen, bounds, show.states)
    try:
        for index, run in running:
            found[index] = run
            # at once: what may come hours later, or never, must not take a schedule with it
            keep(run)
            show.done(len(found))
    except BrokenProcessPool as error:
        message = "a process was ended from outside, for want of memory perhaps; try --max-memory or fewer --jobs"
        raise click.ClickException(message) from error
    except DifferentProgramsError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        return [found[index] for index in sorted(found)], True
    finally:
        running.close()
        show.close()
    return [found[index] for index in sorted(found)], False


class _Progress:
    """A bar on stderr, where that is a terminal; loads nothing where it is not."""

    def __init__(self, total: int) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("verifying", total=total)
            self._bar.start()

    def done(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=count)

    def states(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=f"verifying ({count} states)")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _case(run: Run) -> TestCase:
    failure, schedule = run.verdict.failure, run.verdict.schedule
    assert failure is not None
    assert schedule is not None
    how = "proven minimal" if run.verdict.complete else "not proven minimal"
    expect = Expectation("bug", failure.error, failure.function)
    cell = run.cell
    origin = f"found by fuzzvm verify, {how}"
    return TestCase(cell.scenario, cell.mitigation, cell.memory, schedule, expect, origin, without=cell.without)


def _to_json(run: Run, saved: Path | None) -> dict[str, Any]:
    verdict = run.verdict
    schedule = verdict.schedule
    return {
        "mitigation": run.cell.mitigation,
        "scenario": run.cell.scenario.name,
        "memory": run.cell.memory,
        "tlb": run.cell.scenario.tlb,
        "without": list(run.cell.without),
        "verdict": verdict.verdict,
        "expected": run.expected,
        "as_expected": run.as_expected,
        "bug": verdict.failure.error if verdict.failure else None,
        "function": verdict.failure.function if verdict.failure else None,
        "complete": verdict.complete,
        "bound": verdict.stopped or None,
        "states": verdict.states,
        "transitions": verdict.transitions,
        "seconds": round(verdict.seconds, 4),
        "schedule": None if schedule is None else format_schedule(schedule),
        "context_switches": None if schedule is None else context_switches(schedule),
        "steps": None if schedule is None else len(schedule),
        "saved": None if saved is None else str(saved),
    }


def _verdict(run: Run) -> str:
    """Return a verdict that never says more than was explored."""
    verdict = run.verdict
    if verdict.failure is not None:
        return f"bug: {verdict.failure.error}"
    return "safe" if verdict.complete else "safe within the bound"


def _print(runs: Sequence[Run], saved: dict[int, Path]) -> None:
    print_table(
        ("mitigation", "scenario", "memory", "verdict", "states", "seconds", "as documented"),
        [
            (
                run.cell.mitigation,
                run.cell.scenario.name,
                run.cell.memory,
                _verdict(run),
                str(run.verdict.states),
                f"{run.verdict.seconds:.3f}",
                "-" if run.expected is None else "yes" if run.as_expected else "NO",
            )
            for run in runs
        ],
    )
    for run in runs:
        verdict = run.verdict
        where = f"{run.cell.mitigation}, {run.cell.scenario.name}, {run.cell.memory}"
        if verdict.failure is not None and verdict.schedule is not None:
            click.echo(
                f"\n{where}: {verdict.failure.error} in {verdict.failure.function or 'the run as a whole'}, "
                f"{context_switches(verdict.schedule)} context switches, {len(verdict.schedule)} steps, "
                f"{'proven minimal' if verdict.complete else 'not proven minimal'}"
            )
            click.echo(f"  schedule: {_short(format_schedule(verdict.schedule))}")
            if id(run) in saved:
                own = f" --mitigation {run.cell.mitigation}" if ".py:" in run.cell.mitigation else ""
                click.echo(f"  saved: fuzzvm explain {shell_path(saved[id(run)])}{own}")
        elif verdict.failure is not None:
            place = verdict.failure.function or "the run as a whole"
            click.echo(f"\n{where}: {verdict.failure.error} in {place}; its schedule was not found within the bound")
        if verdict.stopped:
            click.echo(f"\n{where}: not everything was explored: {verdict.stopped}")
    if all(len({pick(run.cell) for run in runs}) > 1 for pick in (_mitigation, _scenario)):
        print_matrix(runs)


def _mitigation(cell: Cell) -> str:
    return cell.mitigation


def _scenario(cell: Cell) -> str:
    return cell.scenario.name


def _short(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:400]}… (--save DIR keeps all of it)"
