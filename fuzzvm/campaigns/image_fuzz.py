"""Searching the schedules of a kernel image by chance: the strategies that need a Task and no more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzzvm.campaigns.plain import (
    MINIMISER_GRACE,
    Finding,
    FuzzCell,
    FuzzCellResult,
    NotReproducibleError,
    bounded_search,
    minimiser_end,
    signals_end,
)
from fuzzvm.corpus import store
from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import replay
from fuzzvm.images.code import ImageCode
from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.execution import execute
from fuzzvm.runs.engines import Budget, Found, FuzzSearch, rotation
from fuzzvm.runs.engines.strategy_loop import PROGRESS_EVERY, StrategyEngine
from fuzzvm.runs.minimise.minimiser import minimise
from fuzzvm.scenario.system import default_memory


@dataclass(frozen=True)
class _Kept:
    """A failing run as a test case, and the how many-th run it was."""

    case: TestCase
    message: str
    run: int


def run_image_cell(
    cell: FuzzCell,
    budget: Budget,
    seed: int,
    corpus: Path | None,
    *,
    keep_going: bool,
    end: float | None,
    on_search: Callable[[FuzzSearch], None],
    on_minimise: Callable[[str], None],
) -> FuzzCellResult:
    """Do what `run_cell` does for a cell of an image. Raises ConversionError for a failing run that cannot be kept."""
    code = cell.mitigation
    assert isinstance(code, ImageCode)
    began = time.monotonic()
    search = FuzzSearch(budget, keep_going=keep_going, on_progress=on_search)
    result = FuzzCellResult(cell, search)
    kept: list[_Kept] = []
    with signals_end(search):
        with bounded_search(budget.seconds):
            _search(cell, code, seed, search, kept)
        result.seconds = search.seconds
        searched = time.monotonic()
        until = minimiser_end(budget, began, end)
        if search.interrupted:
            until = min(until or math.inf, searched + MINIMISER_GRACE)
        for one in kept:
            result.findings.append(_settle(cell, code, one, seed, corpus, on_minimise, until))
        result.minimising_seconds = time.monotonic() - searched
    return result


def _search(cell: FuzzCell, code: ImageCode, seed: int, search: FuzzSearch, kept: list[_Kept]) -> None:
    assert isinstance(cell.engine, StrategyEngine)
    seconds = search.budget.seconds
    until = None if seconds is None else search.started + seconds
    tasks = [code.task_to_search(one, cell.memory or default_memory(one), until) for one in cell.scenarios]
    strategy = cell.engine.strategy(Random(seed))
    turns = [tasks.index(task) for task in rotation(tasks)]
    kinds: set[tuple[int, str, str]] = set()
    while not search.over:
        number = turns[search.runs % len(turns)]
        task = tasks[number]
        strategy.begin(number, task.cpus)
        try:
            execution = execute(task.machine(), strategy)
        except OutdatedProgramError:
            # what the run rests on is otherwise: it is none
            tasks[number] = task.again()
            continue
        strategy.end(execution)
        search.runs += 1
        search.steps += execution.steps
        failure = execution.failure
        if failure is not None and (kind := (number, failure.error, failure.function)) not in kinds:
            kinds.add(kind)
            # at once: what is learnt later changes which accesses are steps
            case = code.case(task, cell.scenarios[number], execution.schedule, failure, "")
            kept.append(_Kept(case, failure.message, search.runs))
            search.found.append(Found(task, execution, search.runs))
        if search.runs % PROGRESS_EVERY == 0:
            search.on_progress(search)


def _settle(
    cell: FuzzCell,
    code: ImageCode,
    found: _Kept,
    seed: int,
    corpus: Path | None,
    on_minimise: Callable[[str], None],
    until: float | None,
) -> Finding:
    case = found.case
    result = replay(case, code)
    if not result.as_expected:
        raise NotReproducibleError(
            f"run {found.run} of {cell.engine.name} on {case.scenario.name or 'a scenario'} failed once and not again: "
            f"{result.problem}"
        )
    minimised = minimise(case, code, until=until, progress=on_minimise)
    scenario = f", in scenario {case.scenario.name}" if case.scenario.name else ""
    minimised = minimised.with_origin(
        f"found by {cell.engine.name}, seed {seed}, run {found.run}{scenario}; {minimised.how}"
    )
    path, new = (None, False) if corpus is None else store.save(minimised.case, corpus)
    return Finding(minimised, case.scenario.name, found.message, path, new, claimed_safe=False)
