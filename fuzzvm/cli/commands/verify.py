"""`fuzzvm verify`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fuzzvm.cli.checkpointed import WITH_CHECKPOINT, WITH_RESUME, begun, resumed, verified
from fuzzvm.cli.code import refuse_with, refuse_with_image
from fuzzvm.cli.common import (
    hook_seconds_option,
    json_option,
    mitigation_options,
    mitigations,
    print_json,
    scenario_options,
    scenarios,
    tlb_option,
    without_option,
)
from fuzzvm.cli.executor import Address, executor_option
from fuzzvm.cli.happened import happened_option, happened_to_data, print_happened
from fuzzvm.cli.matrix_table import print_matrix
from fuzzvm.cli.output import print_table, say
from fuzzvm.cli.verdicts import how, in_words, say_load_buffering, say_shortfalls
from fuzzvm.cli.where import Where
from fuzzvm.corpus import store
from fuzzvm.corpus.command import command
from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.exhaustive import FailingRun, Limits
from fuzzvm.exhaustive.limits import bounded_by
from fuzzvm.files.writing import check_file
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import StoppedError
from fuzzvm.machine.memory import searchable
from fuzzvm.machine.schedule import context_switches, format_schedule
from fuzzvm.supervision import inside
from fuzzvm.verify.matrix import Bounds, Cell, VerifiedCell, cells, check_runs
from fuzzvm.verify.verdict_data import error_to_data, failure_to_data, search_to_data


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
@hook_seconds_option
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
@click.option(
    "--all-errors",
    is_flag=True,
    help="Go on past the first error: each error id and function, with the shortest schedule that ends so.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Verify the compiled functions of a kernel image of `fuzzvm image build`, and no mitigation.",
)
@click.option(
    "--boundary",
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="With --image: a Python file of functions that stand for those of the same name, which are not run.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write how far one run has come to this new file every few seconds; --resume goes on from there.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Go on with the run of a checkpoint. Bounds, --save, --happened and --json are given anew.",
)
@happened_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    mitigation_names: tuple[str, ...],
    scenario_names: tuple[str, ...],
    memory: str | None,
    tlb: bool,
    without: tuple[str, ...],
    max_states: int | None,
    max_seconds: float | None,
    max_memory: int | None,
    hook_seconds: float | None,
    preemptions: int | None,
    jobs: int | None,
    executor: Address | None,
    no_reduction: bool,
    save: Path | None,
    html: Path | None,
    all_errors: bool,
    image: Path | None,
    boundary: Path | None,
    checkpoint: Path | None,
    resume: Path | None,
    happened: bool,
    as_json: bool,
) -> int:
    """Explore every schedule: is there one that goes wrong?

    Says `safe` when there is none, and prints the shortest one when there is: fewest context switches, then fewest
    steps. A run that was cut short by a bound says so. Without --memory, each scenario runs under the memory model of
    its architecture and under all stronger ones: sc, tso and arm64, or sc and tso on x86_64. Without --mitigation and
    --release, all mitigations that ship run, and all releases. Several of these and of scenarios end in a table. Exit
    status 0 when every verdict is the documented one; a mitigation that documents none, or lacks an ordering point,
    must be safe. The verdict is `vacuous` where nothing goes wrong and something that the scenario is for happens in
    no schedule, though the mitigation does not say that it gives it up, and `undecided` where a bound was reached
    before there was a state to look at. Under arm64, a line below the table says of how many safe runs it is proven
    that load buffering adds nothing, and names the others.

    \b
    fuzzvm verify --mitigation static-key
    fuzzvm verify -m ./mine.py:MyScheme -s two-walkers --memory sc
    fuzzvm verify --executor dask://scheduler.example.org:8786
    fuzzvm verify --image ./linux-7.3 -s pmd-promotion
    fuzzvm verify -m deferred-free -s tlb-vmalloc-cycle --memory arm64 --checkpoint night.checkpoint
    """
    if resume is not None:
        refuse_with("--resume", context, WITH_RESUME)
    elif checkpoint is not None:
        refuse_with("--checkpoint", context, WITH_CHECKPOINT)
    if memory is not None and not searchable(memory):
        raise click.UsageError(f"memory model {memory} cannot be searched exhaustively")
    if all_errors and preemptions is not None:
        raise click.UsageError("--all-errors and --preemptions exclude each other: every schedule is needed for it")
    limits = Limits(max_states, max_seconds)
    of_process = replace(limits, max_memory=None if max_memory is None else max_memory << 20)
    inside.let_hooks_take(hook_seconds)
    if image is not None:
        refuse_with_image(context, _WITH_IMAGE)
        # imported here: ELF, DWARF and disassembly are needed for nothing else
        from fuzzvm.cli.image_verify import verify_on_image

        given = scenarios(scenario_names, tlb=tlb)
        bounds = Bounds(of_process, preemptions, not no_reduction, all_errors)
        if save is not None and boundary is not None:
            raise click.UsageError("--save and --boundary exclude each other: a test case names no boundary functions")
        if save is not None:
            store.check_writable(save)
        return verify_on_image(
            image, given, memory, bounds, save, boundary, chosen=bool(scenario_names), tlb=tlb, as_json=as_json
        )
    if boundary is not None:
        raise click.UsageError("--boundary needs --image")
    if resume is not None:
        goes_on = resumed(resume, limits)
        chosen = [goes_on.cell]
    else:
        with bounded_by(of_process):
            names = [name for name, _ in mitigations(mitigation_names, releases=True)]
        chosen = cells(names, scenarios(scenario_names, tlb=tlb), memory, tuple(dict.fromkeys(without)))
    if save is not None:
        store.check_writable(save)
    if html is not None:
        # now, and not after a search of hours
        check_file(html)
    bounds = Bounds(limits, preemptions, not no_reduction, all_errors)
    where = Where(jobs, max_memory, executor)
    saved: dict[int, Path] = {}
    """By the run, and by each of its errors."""

    def keep(run: VerifiedCell) -> None:
        if save is not None and run.verdict.schedule is not None:
            saved[id(run)] = store.save(_case(run), save)[0]
            for error in run.verdict.errors:
                saved[id(error)] = store.save(_case_of(run, error), save)[0]

    if checkpoint is not None or resume is not None:
        kept = begun(checkpoint, chosen, bounds) if checkpoint is not None else goes_on
        run = verified(kept, where.memory_here(), keep)
        runs, interrupted = ([], True) if run is None else ([run], False)
    else:
        runs, interrupted = _verify(chosen, bounds, where, keep)
    unchecked = ""
    if not interrupted:
        # before anything is said: a verdict on a scheme that does not do the same every time is none
        try:
            check_runs(runs, max_seconds)
        except StoppedError as bound:
            unchecked = str(bound)
        except KeyboardInterrupt:
            interrupted = True
    checked = not (interrupted or unchecked)
    if html is not None:
        # imported here: templates are needed for nothing else
        from fuzzvm.cli.matrix_html import write_matrix

        write_matrix([(run, None if run.verdict.schedule is None else _case(run)) for run in runs], html)
    if as_json:
        data = [_to_json(run, saved, checked=checked) for run in runs]
        print_json({"runs": data, "interrupted": interrupted})
    else:
        _print(runs, saved, checked=checked)
        if happened:
            print_happened(runs)
        if interrupted:
            say(f"interrupted: {len(runs)} of {len(chosen)} runs done", err=True)
        if unchecked:
            say("", f"verdicts are unchecked: {unchecked}")
    if interrupted:
        return 130
    if unchecked and any(run.driving is not None for run in runs):
        return 1
    return 0 if all(run.as_expected for run in runs) else 1


_WITH_IMAGE = (
    "image",
    "boundary",
    "hook_seconds",
    "scenario_names",
    "memory",
    "max_states",
    "max_seconds",
    "max_memory",
    "preemptions",
    "no_reduction",
    "all_errors",
    "tlb",
    "save",
    "as_json",
)


def _verify(
    chosen: Sequence[Cell], bounds: Bounds, where: Where, keep: Callable[[VerifiedCell], None]
) -> tuple[list[VerifiedCell], bool]:
    """Return the runs in the order of the cells, and whether Ctrl-C ended them early; `keep` is called with each."""
    found: dict[int, VerifiedCell] = {}
    show = _Progress(len(chosen))
    running = where.verify(chosen, bounds)
    try:
        for index, run in running:
            found[index] = run
            # at once: what may come hours later, or never, must not take a schedule with it
            keep(run)
            show.done(len(found))
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

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _case(run: VerifiedCell) -> TestCase:
    failure, schedule = run.verdict.failure, run.verdict.schedule
    assert failure is not None
    assert schedule is not None
    return _case_of(run, FailingRun(failure, schedule, run.verdict.complete))


def _case_of(run: VerifiedCell, error: FailingRun) -> TestCase:
    expect = Expectation("bug", error.failure.error, error.failure.function)
    cell = run.cell
    origin = f"found by fuzzvm verify, {how(minimal=error.minimal)}"
    return TestCase(cell.scenario, cell.mitigation, cell.memory, error.schedule, expect, origin, without=cell.without)


def _to_json(run: VerifiedCell, saved_files: dict[int, Path], *, checked: bool) -> dict[str, Any]:
    verdict = run.verdict
    saved = saved_files.get(id(run))
    return {
        "mitigation": run.cell.mitigation,
        "scenario": run.cell.scenario.name,
        "memory": run.cell.memory,
        "tlb": run.cell.scenario.tlb,
        "without": list(run.cell.without),
        "verdict": verdict.verdict,
        "expected": run.expected,
        "as_expected": run.as_expected,
        **failure_to_data(verdict),
        **search_to_data(verdict),
        "saved": None if saved is None else str(saved),
        "errors": [
            error_to_data(error) | {"saved": str(saved_files[id(error)]) if id(error) in saved_files else None}
            for error in verdict.errors
        ],
        "errors_bound": verdict.errors_stopped or None,
        "deterministic": None if run.driving is None or not checked else True,
        **happened_to_data(run),
    }


def _verdict(run: VerifiedCell, *, checked: bool) -> str:
    said = in_words(run.verdict)
    believed = checked or run.driving is None or run.verdict.failure is not None or run.verdict.verdict == "undecided"
    return said if believed else f"{said}, unchecked"


def _print(runs: Sequence[VerifiedCell], saved: dict[int, Path], *, checked: bool) -> None:
    print_table(
        ("mitigation", "scenario", "memory", "verdict", "states", "seconds", "as documented"),
        [
            (
                run.cell.mitigation,
                run.cell.scenario.name,
                run.cell.memory,
                _verdict(run, checked=checked),
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
            only = FailingRun(verdict.failure, verdict.schedule, verdict.complete)
            for error in verdict.errors or (only,):
                _print_error(run, where, error, saved.get(id(run) if error is only else id(error)))
            if verdict.errors_stopped:
                say("", f"{where}: there may be other errors: {verdict.errors_stopped}")
        say_shortfalls(where, verdict)
    say_load_buffering([(f"{run.cell.mitigation}, {run.cell.scenario.name}", run.verdict) for run in runs])
    if all(len({pick(run.cell) for run in runs}) > 1 for pick in (_mitigation, _scenario)):
        print_matrix(runs)


def _print_error(run: VerifiedCell, where: str, error: FailingRun, saved: Path | None) -> None:
    failure, schedule = error.failure, error.schedule
    say(
        "",
        f"{where}: {failure.error} in {failure.function or 'the run as a whole'}, "
        f"{context_switches(schedule)} context switches, {len(schedule)} steps, {how(minimal=error.minimal)}",
    )
    say(f"  schedule: {_short(format_schedule(schedule))}")
    if saved is not None:
        say(f"  saved: {command('explain', saved, run.cell.mitigation)}")


def _mitigation(cell: Cell) -> str:
    return cell.mitigation


def _scenario(cell: Cell) -> str:
    return cell.scenario.name


def _short(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:400]}… (--save DIR keeps all of it)"
