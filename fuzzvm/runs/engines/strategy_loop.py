"""The loop that the engines with a strategy share: one run after the other, the systems in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.task import Task
from fuzzvm.runs.engines import FuzzSearch, rotation
from fuzzvm.runs.strategies import Strategy

PROGRESS_EVERY = 64
"""Runs from one report of progress to the next."""


@dataclass(frozen=True)
class StrategyEngine:
    """An engine that is a strategy run in a loop."""

    name: str
    summary: str
    strategy: type[Strategy]

    def unavailable(self) -> str:
        return ""

    def search(self, systems: Sequence[Task], seed: int, search: FuzzSearch) -> None:
        strategy = self.strategy(Random(seed))
        numbers = {id(task): number for number, task in enumerate(systems)}
        turns = [numbers[id(task)] for task in rotation(systems)]
        tasks = search.tasks = list(systems)
        while not search.over:
            number = turns[search.runs % len(turns)]
            task = tasks[number]
            strategy.begin(number, task.cpus)
            try:
                execution = search.execute(task, strategy)
            except OutdatedProgramError:
                # what the run rests on is otherwise: it is none
                tasks[number] = task.again()
                continue
            strategy.end(execution)
            search.account(task, execution)
            if search.runs % PROGRESS_EVERY == 0:
                search.on_progress(search)
