"""`fuzzvm fuzz`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fuzzvm.campaigns import sitting
from fuzzvm.campaigns import status as statuses
from fuzzvm.campaigns.plain import INSISTS, FuzzCell, FuzzCellResult, SharedBudget, bounded_by_seconds, run_cell
from fuzzvm.campaigns.run import State, TaskExecutor
from fuzzvm.campaigns.settings import EVEN, PAYS, SCHEDULES, Settings
from fuzzvm.campaigns.sitting import new_folder, targets
from fuzzvm.campaigns.tasks import CampaignResult, CampaignTask
from fuzzvm.cli.campaign import print_campaign, progress_line
from fuzzvm.cli.code import refuse_with_image
from fuzzvm.cli.common import (
    hook_seconds_option,
    json_option,
    memory_option,
    mitigation_options,
    mitigations,
    print_json,
    progress_console,
    scenario_options,
    scenarios,
    shell_path,
    tlb_option,
    without_option,
)
from fuzzvm.cli.executor import TLS_OPTIONS, Address, connected, executor_option
from fuzzvm.cli.fuzz_results import print_results, results_to_data
from fuzzvm.cli.happened import happened_option, print_happened_in_campaign, print_happened_in_runs
from fuzzvm.cli.image_fuzz import WITH_IMAGE, image_cells
from fuzzvm.cli.output import say
from fuzzvm.cli.sparkline import Growth
from fuzzvm.corpus import store
from fuzzvm.files.printable import printable
from fuzzvm.runs import engines
from fuzzvm.runs.engines import Budget, FuzzSearch
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import default_memory
from fuzzvm.scenario.target import Target
from fuzzvm.supervision import inside
from fuzzvm.supervision.inside import HOOK_SECONDS

DEFAULT_SECONDS = 60.0
DEFAULT_ENGINES = (engines.DEFAULT,)
PORTFOLIO = ("pct", "pos", "random", "surw", "urw")
DEFAULT_CORPUS = Path("corpus/findings")


_MAY_RESUME = (
    *("resume", "seconds", "runs", "jobs", "happened", "as_json"),
    *("executor", *TLS_OPTIONS),
    # what reaches beyond the campaign's folder is named each time
    *("mitigation_names", "corpus"),
)
"""Options that --resume may have beside it."""


@dataclass(frozen=True)
class _Settings:
    budget: Budget
    seed: int
    corpus: Path | None
    keep_going: bool
    insists: bool
    end: float | None
    """When all must be over, by the monotonic clock."""


@click.command()
@mitigation_options
@scenario_options
@memory_option
@tlb_option
@without_option
@click.option(
    "--engine",
    "-e",
    "engine_names",
    multiple=True,
    type=click.Choice(engines.names()),
    help=f"Engine; may be given more than once. Default: {engines.DEFAULT}; "
    "in a campaign pct, pos, random, surw and urw.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Time for all searches together. Default: {DEFAULT_SECONDS:g}, or none with --runs.",
)
@click.option("--runs", type=click.IntRange(min=1), help="Runs for all searches together.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same runs.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_CORPUS,
    show_default=True,
    help="Folder that findings are saved in.",
)
@click.option("--keep-going", is_flag=True, help="Use the whole budget, also after a bug was found.")
@click.option(
    "--expect-claims",
    is_flag=True,
    help="Exit with 0 where each verdict is the one that the mitigation claims, with 1 where one is not. A search for "
    f"a bug that is claimed goes on until it is found, and one without a run is begun again, for {INSISTS} times "
    "--seconds at most.",
)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    help="Search as a campaign, in so many processes. Default with --executor: all.",
)
@click.option(
    "--campaign",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of a new campaign. Default with --jobs: a new one in campaigns/, named by the time.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Go on with a campaign: with what is left of its budget, or with as much again as --seconds or --runs say. "
    "What reaches beyond its folder is named again: a mitigation of your own, and --corpus.",
)
@click.option(
    "--schedule-by",
    type=click.Choice(SCHEDULES),
    help="How a campaign divides its time between scenarios and engines: by what pays, or evenly. Default: pays.",
)
@click.option("--split", "schedule_by_old_name", type=click.Choice(SCHEDULES), hidden=True)
@click.option(
    "--image",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Search the compiled functions of a kernel image of `fuzzvm image build`, and no mitigation.",
)
@hook_seconds_option
@executor_option
@happened_option
@json_option
@click.pass_context
def fuzz(
    context: click.Context,
    mitigation_names: tuple[str, ...],
    scenario_names: tuple[str, ...],
    memory: str | None,
    tlb: bool,
    without: tuple[str, ...],
    engine_names: tuple[str, ...],
    seconds: float | None,
    runs: int | None,
    seed: int,
    corpus: Path,
    keep_going: bool,
    expect_claims: bool,
    jobs: int | None,
    campaign: Path | None,
    resume: Path | None,
    schedule_by: str | None,
    schedule_by_old_name: str | None,
    image: Path | None,
    hook_seconds: float | None,
    executor: Address | None,
    happened: bool,
    as_json: bool,
) -> int:
    """Search for a schedule that fails, minimise what is found and save it.

    Each mitigation is searched under each engine, over all scenarios in turn, until a bug is found or its share of
    the budget is used up. Verdict `safe` means that none was found, no more; `vacuous` that none was found, and that
    something that a scenario is for happened in none of its runs. Ctrl-C ends the search and keeps what
    has been found. Without --scenario, those are left out for a mitigation that it is documented not to be meant for
    (a walk of another mm, where it knows of init_mm's lock alone); `fuzzvm verify` has them all.

    \b
    fuzzvm fuzz --mitigation none --seconds 20
    fuzzvm fuzz -m ./mine.py:MyScheme -e surw -e atheris --seconds 300
    fuzzvm fuzz --image ./linux-7.3 -s pmd-promotion --seconds 60

    With --jobs or --campaign it is a campaign: a portfolio of engines in several processes, in a folder that outlives
    a kill of any of them; fuzzvm status reads it meanwhile. So it is with --executor, on the workers of a cluster.

    \b
    fuzzvm fuzz -m static-key --jobs 4 --campaign weekend --seconds 200000 --keep-going
    fuzzvm fuzz --resume weekend
    fuzzvm fuzz -m static-key --executor dask://scheduler.example.org:8786 --campaign weekend --seconds 200000
    """
    began = time.monotonic()
    inside.let_hooks_take(hook_seconds)
    given_corpus = context.get_parameter_source("corpus") is not ParameterSource.DEFAULT
    if resume is not None:
        _refuse_with_resume(context)
        with _executing(executor, jobs) as (start, room), progress_line() as show:
            state = sitting.resume(
                resume,
                show,
                jobs=room or jobs,
                more_seconds=seconds,
                more_runs=runs,
                executor=start,
                named=mitigation_names,
                corpus=corpus if given_corpus else None,
                on_signal=partial(_say_what_goes_on, resume),
            )
        return _report_campaign(resume, state, happened=happened, as_json=as_json)
    is_campaign = jobs is not None or campaign is not None or executor is not None
    schedule_by = schedule_by or schedule_by_old_name
    if not is_campaign and schedule_by is not None:
        raise click.UsageError("--schedule-by is for campaigns: --jobs or --campaign")
    engine_names = engine_names or (PORTFOLIO if is_campaign else DEFAULT_ENGINES)
    given = scenarios(scenario_names, tlb=tlb)
    if seconds is None and runs is None:
        seconds = DEFAULT_SECONDS
    with bounded_by_seconds(seconds):
        if image is not None:
            refuse_with_image(context, WITH_IMAGE)
            cells = image_cells(image, given, memory, engine_names, by_name=bool(scenario_names), tlb=tlb)
        else:
            points = tuple(dict.fromkeys(without))
            cells = _cells(mitigation_names, given, memory, engine_names, points, by_name=bool(scenario_names))
    if is_campaign:
        settings = Settings(
            targets=targets(cells),
            engines=tuple(dict.fromkeys(engine_names)),
            seed=seed,
            seconds=seconds,
            runs=runs,
            jobs=jobs or 1,
            keep_going=keep_going or schedule_by == EVEN,
            schedule_by=schedule_by or PAYS,
            hook_seconds=hook_seconds or HOOK_SECONDS,
            expect_claims=expect_claims,
            corpus=str(corpus.absolute()) if given_corpus else None,
            claims=tuple({cell.name: cell.expected for cell in cells}.items()),
        )
        folder = campaign or new_folder()
        with _executing(executor, jobs, engine_names) as (start, room), progress_line() as show:
            state = sitting.begin(
                folder,
                replace(settings, jobs=room or settings.jobs),
                show,
                executor=start,
                on_signal=partial(_say_what_goes_on, folder),
            )
        return _report_campaign(folder, state, happened=happened, as_json=as_json)
    store.check_writable(corpus)
    end = None if seconds is None else began + seconds
    insists = expect_claims and not keep_going
    results = _search(cells, _Settings(Budget(seconds, runs), seed, corpus, keep_going, insists, end))
    if as_json:
        print_json(results_to_data(results))
    else:
        print_results(results)
        if happened:
            print_happened_in_runs(results)
    if any(result.interrupted for result in results):
        return 130
    if idle := [result.cell for result in results if not (result.search.runs or result.findings)]:
        return _nothing_known([f"{cell.name}, {cell.engine.name}" for cell in idle])
    if expect_claims:
        return 1 if any(result.as_expected is False for result in results) else 0
    return 1 if any(result.verdict != "safe" for result in results) else 0


@contextlib.contextmanager
def _executing(
    address: Address | None, jobs: int | None, engine_names: Sequence[str] = ()
) -> Iterator[tuple[Callable[[Settings], TaskExecutor], int | None]]:
    """Yield what makes the executor of a campaign, and how many tasks a cluster runs at once, None on this machine."""
    if address is None:
        yield sitting.local, None
        return
    # imported here: few need a cluster
    from fuzzvm.campaigns.cluster.executor import RemoteExecutor, perform_there
    from fuzzvm.campaigns.cluster.session import Session

    _refuse_atheris(engine_names)
    with connected(address) as cluster:

        def start(settings: Settings) -> TaskExecutor:
            _refuse_atheris(settings.engines)
            session = Session.begin(settings.mitigations(), cluster.hosts, memory=None, memory_bounded=False)
            executor: RemoteExecutor[CampaignTask, CampaignResult] = RemoteExecutor(
                cluster, session, perform_there, settings.hook_seconds, jobs
            )
            return executor

        yield start, jobs or cluster.threads


def _refuse_atheris(engine_names: Sequence[str]) -> None:
    if "atheris" in engine_names:
        raise click.UsageError("engine atheris searches on this machine alone: not with --executor")


def _refuse_with_resume(context: click.Context) -> None:
    """Raise UsageError for an option that would change what a campaign is about."""
    for option in context.command.params:
        name = option.name or ""
        if name not in _MAY_RESUME and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--resume goes on with a campaign as it was begun: no {option.opts[0]} with it")


def _say_what_goes_on(folder: Path) -> None:
    # at once, since a process that hardly gets a processor may be ended before there is another time
    with contextlib.suppress(OSError):
        os.write(2, f"interrupted: fuzzvm fuzz --resume {shell_path(folder)} goes on\n".encode())


def _report_campaign(folder: Path, state: State, *, happened: bool, as_json: bool) -> int:
    """Print what a campaign has come to; return the exit status."""
    found = statuses.read(folder)
    if as_json:
        print_json(found.to_data() | {"interrupted": state.interrupted})
    else:
        print_campaign(found)
        if happened:
            print_happened_in_campaign(found)
        say("", f"campaign: fuzzvm status {shell_path(folder)}")
    if state.interrupted:
        if not as_json:
            say(f"ended before the budget was used up; fuzzvm fuzz --resume {shell_path(folder)}", err=True)
        return 130
    if idle := [one.mitigation for one in found.mitigations if one.verdict == "safe" and not one.sums.runs]:
        return _nothing_known(idle)
    if found.settings.expect_claims:
        return 1 if any(one.as_expected is False for one in found.mitigations) else 0
    return 0 if found.verdict == "safe" else 1


def _nothing_known(names: Sequence[str]) -> int:
    """Say of searches that no run of theirs came to its end; return the exit status."""
    for name in names:
        say(f"fuzzvm: {name}: no run came to its end in its time, so nothing is known", err=True)
    return 2


def _cells(
    mitigation_names: tuple[str, ...],
    given: tuple[Scenario, ...],
    memory: str | None,
    engine_names: tuple[str, ...],
    without: tuple[str, ...],
    *,
    by_name: bool,
) -> list[FuzzCell]:
    chosen = [engines.get(name) for name in dict.fromkeys(engine_names)]
    for engine in chosen:
        if lacks := engine.unavailable():
            raise click.UsageError(lacks)
    return [
        FuzzCell(
            name,
            engine,
            tuple(
                Target(mitigation, one, memory or default_memory(one), without, name)
                for one in given
                if by_name or not one.beyond(mitigation)
            ),
        )
        for name, mitigation in mitigations(mitigation_names)
        for engine in chosen
    ]


def _search(cells: list[FuzzCell], settings: _Settings) -> list[FuzzCellResult]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
    )
    results: dict[int, FuzzCellResult] = {}
    grown: dict[int, Growth] = {}
    shared = SharedBudget(settings.budget, cells, insists=settings.insists)
    # those in which a bug is claimed come first, see SharedBudget; results keep the order of the cells
    order = sorted(range(len(cells)), key=lambda number: cells[number].expected != "bug")
    with Progress(*columns, console=progress_console(), transient=True) as progress:
        for number in order:
            cell = cells[number]
            task = progress.add_task(printable(f"{cell.name} / {cell.engine.name}"), total=1.0, figures="")

            growth = grown[number] = Growth()

            def on_search(search: FuzzSearch, task: Any = task, growth: Growth = growth) -> None:
                growth.add(search.seconds, search.pairs)
                done = [
                    used / limit
                    for used, limit in (
                        (search.seconds, search.budget.seconds),
                        (float(search.runs), search.budget.runs),
                    )
                    if limit
                ]
                figures = f"{search.runs} runs, {search.runs / max(search.seconds, 1e-9):.0f}/s"
                if search.pairs:
                    figures += f", {search.pairs} pairs {growth.line(12)}"
                progress.update(task, completed=min(1.0, max(done, default=0.0)), figures=figures)

            def on_minimise(name: str, task: Any = task) -> None:
                progress.update(task, figures=f"minimising: {name}")

            given: Budget | None = shared.share(cell)
            while given is not None:
                result = run_cell(
                    cell,
                    given,
                    settings.seed,
                    settings.corpus,
                    keep_going=settings.keep_going,
                    end=settings.end,
                    on_search=on_search,
                    on_minimise=on_minimise,
                )
                given = shared.more(given, result)
            shared.spend(cell, result.seconds + result.minimising_seconds, result.search.runs)
            results[number] = result
            progress.remove_task(task)
            if result.interrupted:
                break
    if sys.stdout.isatty():
        _print_growth([(cells[number], grown[number]) for number in sorted(results)])
    return [results[number] for number in sorted(results)]


def _print_growth(grown: list[tuple[FuzzCell, Growth]]) -> None:
    """Show how the pairs of conflicting operations grew that the runs have had in one order and in the other."""
    for cell, growth in grown:
        if line := growth.line():
            say(f"{cell.name}, {cell.engine.name}: {line} {growth.sampled(1)[0]} pairs")
