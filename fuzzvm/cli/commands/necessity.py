"""`fuzzvm necessity`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fuzzvm.campaigns.necessity import Answer, NecessityQuestion, answer_all, questions
from fuzzvm.campaigns.plain import bounded_by_seconds
from fuzzvm.cli.common import (
    hook_seconds_option,
    json_option,
    print_json,
    progress_console,
    scenario_options,
    scenarios,
    tlb_option,
)
from fuzzvm.cli.output import print_table, say
from fuzzvm.corpus import store
from fuzzvm.corpus.command import command
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.schedule import context_switches, format_schedule
from fuzzvm.mitigations import registry
from fuzzvm.processes.parallel import cores
from fuzzvm.runs.engines import Budget
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.supervision import inside

DEFAULT_SECONDS = 120.0
ARCH = "arm64"


@click.command(epilog="Points: " + ", ".join(ordering_points.names(ARCH)) + ".")
@click.option(
    "--mitigation",
    "--release",
    "-m",
    "mitigation_name",
    default="static-key",
    show_default=True,
    metavar="NAME|FILE.py:CLASS",
    help="The scheme to ask about, a mitigation or a release.",
)
@scenario_options
@click.option(
    "--memory", type=click.Choice(memory_models.names()), default=ARCH, show_default=True, help="Memory model."
)
@tlb_option
@click.option(
    "--point",
    "-p",
    "point_names",
    multiple=True,
    type=click.Choice(ordering_points.names(ARCH)),
    metavar="POINT",
    help="Point to ask about; may be given more than once. Default: all.",
)
@click.option("--ipi/--no-ipi", default=None, help="With the IPI of kick_all_cpus_sync, or without. Default: both.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Time for all searches together, shared evenly. Default: {DEFAULT_SECONDS:g}, or none with --runs.",
)
@click.option("--runs", type=click.IntRange(min=1), help="Runs for each point.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same runs.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Processes. Default: one a core.")
@hook_seconds_option
@click.option(
    "--corpus", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Save the schedules found here."
)
@json_option
def necessity(
    mitigation_name: str,
    scenario_names: tuple[str, ...],
    memory: str,
    tlb: bool,
    point_names: tuple[str, ...],
    ipi: bool | None,
    seconds: float | None,
    runs: int | None,
    seed: int,
    jobs: int | None,
    hook_seconds: float | None,
    corpus: Path | None,
    as_json: bool,
) -> int:
    """Leave out each ordering point in turn, and say which ones the scheme needs.

    A point is needed where a schedule fails without it; that schedule is minimised. Otherwise `not found needed` says
    that no run failed within the budget, which proves nothing. First comes the scheme with all points in place: where
    that fails, nothing else is asked, and the exit status is 1. Ctrl-C ends it with the answers that are there. Without
    --scenario, scenarios that watch TLBs are left out unless --tlb is given, which watches them in all.

    \b
    fuzzvm necessity --seconds 300 --corpus corpus/necessity
    fuzzvm necessity --no-ipi --point flush-isb --point flush-dsbs
    """
    began = time.monotonic()
    inside.let_hooks_take(hook_seconds)
    if seconds is None and runs is None:
        seconds = DEFAULT_SECONDS
    with bounded_by_seconds(seconds):
        registry.get(mitigation_name)
    if corpus is not None:
        store.check_writable(corpus)
    both = (True, False) if ipi is None else (ipi,)
    chosen = _scenarios(scenario_names, tlb=tlb)
    points = tuple(dict.fromkeys(point_names)) or ordering_points.names(ARCH)
    whole = [NecessityQuestion(mitigation_name, chosen, memory, None, with_ipi) for with_ipi in both]
    asked = questions(mitigation_name, chosen, memory, points, both)
    workers = jobs or cores()
    share = None if seconds is None else seconds * min(workers, len(asked)) / (len(asked) + len(whole))
    budget = Budget(share, runs)
    end = None if seconds is None else began + seconds
    answers: list[Answer] = []
    interrupted = False
    columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), MofNCompleteColumn()
    with Progress(*columns, console=progress_console(), transient=True) as progress:
        task = progress.add_task("all in place", total=len(asked) + len(whole))
        for batch in (whole, asked):
            found: dict[int, Answer] = {}
            running = answer_all(batch, budget, seed, corpus, workers, end)
            try:
                for index, answer in running:
                    found[index] = answer
                    progress.update(task, advance=1, description=f"{answer.question.point}: {answer.verdict}")
            except KeyboardInterrupt:
                interrupted = True
            finally:
                running.close()
            answers += [found[index] for index in sorted(found)]
            if interrupted or (batch is whole and any(answer.finding for answer in answers)):
                break
    fails = any(answer.finding for answer in answers if answer.question.point is None)
    if as_json:
        print_json(_to_json(mitigation_name, memory, answers, fails, interrupted))
    else:
        _print(answers)
        if interrupted:
            left = len(whole) + len(asked) - len(answers)
            say("", f"ended by Ctrl-C: {left} of {len(whole) + len(asked)} questions have no answer", err=True)
        if fails:
            say("", f"{mitigation_name} fails with all points in place, so no point was left out")
    if interrupted:
        return 130
    if not fails and any(answer.question.point is None and not answer.runs for answer in answers):
        say(f"fuzzvm: {mitigation_name}: no run with all points in place came to its end in its time", err=True)
        return 2
    return 1 if fails else 0


def _scenarios(names: tuple[str, ...], *, tlb: bool) -> tuple[Scenario, ...]:
    chosen = scenarios(names, tlb=tlb)
    others = [scenario for scenario in chosen if scenario.arch != ARCH]
    if names and others:
        raise click.UsageError(f"scenario {others[0].name} is of {others[0].arch}; the ordering points are of {ARCH}")
    # what the race needs is asked without hardware that walks as well, for which every part of a flush is needed
    return tuple(scenario for scenario in chosen if scenario.arch == ARCH and (names or tlb or not scenario.tlb))


def _print(answers: list[Answer]) -> None:
    print_table(
        ("left out", "IPI", "verdict", "bug", "switches", "steps", "runs", "found by", "litmus test"),
        [
            (
                answer.question.point or "(nothing)",
                "yes" if ordering_points.IPI not in answer.question.without else "no",
                _verdict(answer),
                *_figures(answer),
                str(answer.runs),
                answer.engine or "-",
                _litmus(answer) or "-",
            )
            for answer in answers
        ],
    )
    for answer in answers:
        if answer.finding is None:
            continue
        case = answer.finding.case
        say(
            "",
            f"without {', '.join(case.without) or 'anything left out'}: {case.expect} "
            f"({answer.finding.how}; found in {answer.finding.scenario})",
        )
        say(f"  schedule: {format_schedule(case.schedule)}")
        if answer.finding.path is not None:
            say(f"  saved: {command('explain', answer.finding.path, case.mitigation)}")


def _verdict(answer: Answer) -> str:
    if answer.question.point is None:
        return "none found" if answer.finding is None else "bug"
    if answer.verdict == "not found needed":
        return f"not found needed within {answer.runs} runs"
    return answer.verdict


def _figures(answer: Answer) -> tuple[str, str, str]:
    if answer.finding is None:
        return "-", "-", "-"
    case = answer.finding.case
    return case.expect.error, str(context_switches(case.schedule)), str(len(case.schedule))


def _litmus(answer: Answer) -> str:
    return "" if answer.question.point is None else ordering_points.get([answer.question.point])[0].litmus


def _to_json(mitigation: str, memory: str, answers: list[Answer], fails: bool, interrupted: bool) -> dict[str, Any]:
    return {
        "mitigation": mitigation,
        "memory": memory,
        "verdict": "bug" if fails else "safe",
        "points": [_answer_to_json(answer) for answer in answers],
        "interrupted": interrupted,
    }


def _answer_to_json(answer: Answer) -> dict[str, Any]:
    question, finding = answer.question, answer.finding
    case = None if finding is None else finding.case
    return {
        "point": question.point,
        "summary": None if question.point is None else ordering_points.get([question.point])[0].summary,
        "ipi": ordering_points.IPI not in question.without,
        "without": list(question.without),
        "needed": finding is not None,
        "used": answer.used,
        "bug": None if case is None else case.expect.error,
        "function": None if case is None else case.expect.function,
        "scenario": None if finding is None else finding.scenario,
        "engine": answer.engine or None,
        "runs": answer.runs,
        "seconds": round(answer.seconds, 3),
        "proven_minimal": None if finding is None else finding.settled.minimised.proven,
        "context_switches": None if case is None else context_switches(case.schedule),
        "steps": None if case is None else len(case.schedule),
        "schedule": None if case is None else format_schedule(case.schedule),
        "litmus": _litmus(answer) or None,
        "saved": None if finding is None or finding.path is None else str(finding.path),
    }
