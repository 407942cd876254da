"""Runs to the first bug: each engine, over many seeds, on every shipped scheme that fails and on the planted bugs.

A run is one schedule. Seeds that find nothing within the limit count as limit + 1, which leaves the median and the 95th
percentile right as long as those are within the limit, and too small else; `missed` says how many there were. Atheris
takes a second to start and most bugs fewer runs than it does meanwhile, so it gets fewer seeds, on the shipped schemes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from fuzzvm.bench import planted
from fuzzvm.bench.result import Note, Result, Target
from fuzzvm.explore import engines
from fuzzvm.explore.engines import Budget, Search
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

NAME = "first-bug"
SUMMARY = "runs to the first bug of each engine, on failing schemes and planted bugs"
SEEDS, QUICK_SEEDS = 200, 5
SLOW = {"atheris": 20, "hypothesis": 10}
"""Engines that get fewer seeds, and the part of all that they get."""
LIMIT = 10_000
QUICK_LIMIT = 200
DEEP_LIMIT = 2_000
"""Runs on planted bugs of depth 3 and more, on which an engine may miss."""
DEPTH_TO_WIN = 3
WANTED = 1 / 3
QUICK_BUGS = ("Drawn2A", "Window3A")


@dataclass(frozen=True, slots=True)
class Case:
    """What is searched: a bug's name, its depth where it was planted, the limit of runs. Picklable by name."""

    bug: str
    engine: str
    seeds: int
    limit: int
    depth: int | None = None


def cases(*, quick: bool, seeds: int = SEEDS) -> list[Case]:
    """Return every case whose engine can run, with that many seeds for the fast ones."""
    found = []
    for engine in engines.names():
        if engines.get(engine).unavailable() or (quick and engine in SLOW):
            continue
        own = max(1, (QUICK_SEEDS if quick else seeds) // SLOW.get(engine, 1))
        most = QUICK_LIMIT if quick else LIMIT
        found += [Case(name, engine, own, most) for name in failing()]
        if engine == "atheris":
            continue
        for bug in planted.PLANTED:
            if not quick or bug.name in QUICK_BUGS:
                limit = min(most, DEEP_LIMIT) if bug.depth >= DEPTH_TO_WIN else most
                found.append(Case(bug.name, engine, own, limit, bug.depth))
    return found


def failing() -> dict[str, tuple[Scenario, ...]]:
    """Return the shipped mitigations that claim to fail, each with the shipped scenarios that it claims to fail in."""
    found = {}
    for name, mitigation in registry.shipped().items():
        wanted = tuple(one for one in shipped.shipped().values() if one.expected(mitigation) == "bug")
        if wanted:
            found[name] = wanted
    return found


def runs_to_first_bug(case: Case) -> list[int]:
    """Return for each seed which run failed first, limit + 1 where none did, in ascending order."""
    if case.depth is None:
        mitigation, scenarios = registry.get(case.bug), failing()[case.bug]
    else:
        mitigation, scenarios = planted.MITIGATIONS[case.bug], (planted.SCENARIO,)
    systems = [_system(scenario, mitigation) for scenario in scenarios]
    taken = []
    for seed in range(case.seeds):
        search = Search(Budget(runs=case.limit))
        engines.get(case.engine).search(systems, seed, search)
        taken.append(search.found[0].run if search.found else case.limit + 1)
    return sorted(taken)


def _system(scenario: Scenario, mitigation: type[Mitigation]) -> System:
    return System(scenario, mitigation, "sc")


def run(*, quick: bool, note: Note, seeds: int = SEEDS) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    for engine in engines.names():
        if lacks := engines.get(engine).unavailable():
            result.not_measured.append(f"engine {engine}: {lacks}")
        elif quick and engine in SLOW:
            result.not_measured.append(f"engine {engine}: left out by --quick")
    if not result.not_measured or not any("atheris" in text for text in result.not_measured):
        result.not_measured.append("engine atheris on planted bugs: a second for each start, for bugs found sooner")
    result.rows = sorted(
        _measured(cases(quick=quick, seeds=seeds), note), key=lambda row: (row["depth"], row["bug"], row["engine"])
    )
    _judge(result)
    return result


def _measured(todo: list[Case], note: Note) -> Iterator[dict[str, Any]]:
    workers = min(len(todo), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    # counts of runs do not depend on how busy the machine is, so the cases may run beside each other
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(runs_to_first_bug, case): case for case in todo}
        for number, future in enumerate(as_completed(futures), 1):
            case = futures[future]
            note(f"first-bug: {number} of {len(todo)}, {case.bug} by {case.engine}")
            taken = future.result()
            yield {
                "bug": case.bug,
                "depth": case.depth or 0,
                "engine": case.engine,
                "seeds": case.seeds,
                "limit": case.limit,
                "median": _percentile(taken, 50),
                "p95": _percentile(taken, 95),
                "missed": sum(one > case.limit for one in taken),
            }


def _percentile(ascending: list[int], percent: int) -> int:
    """Return the smallest figure that at least that many percent do not exceed."""
    return ascending[max(0, -(-len(ascending) * percent // 100) - 1)]


def _judge(result: Result) -> None:
    by_bug: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in result.rows:
        by_bug[row["bug"]][row["engine"]] = row
    for bug, rows in by_bug.items():
        walk = rows["random"]
        for row in rows.values():
            row["by_random_walk"] = row["median"] / walk["median"]
        depth = walk["depth"]
        best = min(rows.values(), key=lambda row: row["median"])
        if depth >= DEPTH_TO_WIN:
            what = f"{bug} (depth {depth}): median of {best['engine']} by that of the random walk"
            result.targets.append(Target(what, best["by_random_walk"], WANTED, at_least=False))
        elif depth:
            missed = sum(row["missed"] for row in rows.values())
            result.targets.append(Target(f"{bug} (depth 2): seeds that missed it", missed, 0, at_least=False))
