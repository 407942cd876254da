"""The loop that the engines with a strategy share: one run after the other, the systems in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fuzzvm.runs.engines import FuzzSearch, rotation
from fuzzvm.runs.strategies import Strategy
from fuzzvm.scenario.system import System

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

    def search(self, systems: Sequence[System], seed: int, search: FuzzSearch) -> None:
        strategy = self.strategy(Random(seed))
        turns = rotation(systems)
        numbers = {id(system): number for number, system in enumerate(systems)}
        while not search.over:
            system = turns[search.runs % len(turns)]
            strategy.begin(numbers[id(system)], system.cpus)
            execution = search.execute(system, strategy)
            strategy.end(execution)
            search.account(system, execution)
            if search.runs % PROGRESS_EVERY == 0:
                search.on_progress(search)
