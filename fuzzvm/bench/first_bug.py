"""Runs to the first bug: each engine, over many seeds, on every shipped scheme that fails and on the planted bugs.

A run is one schedule. Seeds that find nothing within the limit count as limit + 1, which leaves the median and the 95th
percentile right as long as those are within the limit, and too small else; `missed` says how many there were. Slow
engines get fewer seeds. Each result is kept at once (see `records`), so a measurement that was ended goes on where it
stood. An engine is judged by the random walk on bugs that are deep: of DEPTH_TO_WIN constraints or more, and seldom hit
by the random walk, both computed (see `depth`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fuzzvm.bench import planted
from fuzzvm.bench.depth import depth_bounds, median_runs, walk_chance
from fuzzvm.bench.records import Records
from fuzzvm.bench.result import Note, Result, WantedRatio
from fuzzvm.mitigations import registry
from fuzzvm.processes.parallel import call_all, cores
from fuzzvm.runs import engines
from fuzzvm.runs.engines import Budget, FuzzSearch
from fuzzvm.scenario import shipped
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

NAME = "first-bug"
SUMMARY = "runs to the first bug of each engine, on failing schemes and planted bugs"
SEEDS, QUICK_SEEDS = 200, 5
SLOW = {"hypothesis": 4, "atheris": 20}
"""Engines that get fewer seeds, and the part of all that they get: atheris takes a second to start."""
LIMIT = 10_000
QUICK_LIMIT = 200
DEEP_LIMIT = 250
"""Runs on bugs of depth 3 and more, on which an engine may miss."""
DEPTH_TO_WIN = 3
WANTED = 1 / 3
QUICK_BUGS = ("Drawn2A", "Deep3B")


@dataclass(frozen=True, slots=True)
class Case:
    """What is searched: a bug by its name (a planted bug's or a failing mitigation's), by which engine, how long."""

    bug: str
    engine: str
    limit: int


@dataclass(frozen=True, slots=True)
class Bug:
    """What was computed of a bug: the bounds of its depth, and the chance of the random walk, where it is planted."""

    depth: tuple[int, int]
    chance: float | None

    @property
    def deep(self) -> bool:
        """Whether engines are judged by it."""
        return self.depth[0] >= DEPTH_TO_WIN and self.chance is not None and self.chance < planted.SELDOM


def failing() -> dict[str, tuple[Scenario, ...]]:
    """Return the shipped mitigations that claim to fail, each with the shipped scenarios that it claims to fail in."""
    found = {}
    for name, mitigation in registry.shipped().items():
        wanted = tuple(one for one in shipped.shipped().values() if one.expected(mitigation) == "bug")
        if wanted:
            found[name] = wanted
    return found


def names() -> list[str]:
    """Return the names of all bugs."""
    return [*failing(), *(bug.name for bug in planted.PLANTED)]


def cases(*, quick: bool, bugs: Sequence[str] = ()) -> list[Case]:
    """Return every case whose engine can run, those of slow engines last; of some bugs, or of all."""
    if not bugs:
        bugs = [bug for bug in names() if not quick or bug in QUICK_BUGS or bug not in planted.MITIGATIONS]
    most = QUICK_LIMIT if quick else LIMIT
    limits = {bug: most if known(bug).depth[0] < DEPTH_TO_WIN else min(most, DEEP_LIMIT) for bug in bugs}
    able = [name for name in engines.names() if not engines.get(name).unavailable() and not (quick and name in SLOW)]
    return [Case(bug, engine, limits[bug]) for engine in sorted(able, key=SLOW.__contains__) for bug in bugs]


@cache
def systems(bug: str) -> tuple[System, ...]:
    """Return the systems that a bug is in, one a scenario."""
    if bug in planted.MITIGATIONS:
        # named so that another process finds it too
        name = f"{Path(planted.__file__)}:{bug}"
        return (System(planted.SCENARIO, planted.MITIGATIONS[bug], "sc", name),)
    return tuple(System(scenario, registry.get(bug), "sc") for scenario in failing()[bug])


@cache
def known(bug: str) -> Bug:
    """Return what is computed of a bug; of one that is in several scenarios, where it is shallowest."""
    bounds = [depth_bounds(system) for system in systems(bug)]
    chance = walk_chance(systems(bug)[0]) if bug in planted.MITIGATIONS else None
    return Bug((min(least for least, _ in bounds), min(most for _, most in bounds)), chance)


def first_failing_run(case: Case, seed: int) -> int | None:
    """Return which run failed first, counted from 1, or None where none did within the limit."""
    search = FuzzSearch(Budget(runs=case.limit))
    engines.get(case.engine).search(systems(case.bug), seed, search)
    return search.found[0].run if search.found else None


def run(
    *,
    quick: bool,
    note: Note,
    seeds: int = SEEDS,
    jobs: int | None = None,
    records: Path | None = None,
    bugs: Sequence[str] = (),
) -> Result:
    """Measure; see the module. Results in the file of records are taken from there. Raises OSError, RecordsError."""
    result = Result(NAME)
    kept = Records(records)
    if kept.others:
        result.not_measured.append(f"{kept.others} records of another version of fuzzvm are left aside")
    for engine in engines.names():
        if lacks := engines.get(engine).unavailable():
            result.not_measured.append(f"engine {engine}: {lacks}")
        elif quick and engine in SLOW:
            result.not_measured.append(f"engine {engine}: left out by --quick")
    chosen = cases(quick=quick, bugs=bugs)
    limits = {case.limit for case in chosen}
    wanted = {
        (case, seed): None
        for case in chosen
        for seed in range(max(1, (QUICK_SEEDS if quick else seeds) // SLOW.get(case.engine, 1)))
    }
    found: dict[tuple[Case, int], int | None] = {}
    for record in kept.known:
        for case, seed in ((Case(record["bug"], record["engine"], limit), record["seed"]) for limit in limits):
            # a search with a higher limit does the same runs, and more
            if record["limit"] >= case.limit:
                first = record["run"]
                found[case, seed] = first if first is not None and first <= case.limit else None
    todo = [task for task in sorted(wanted, key=lambda task: (task[0].engine in SLOW, task[1])) if task not in found]
    try:
        for number, (case, seed, first) in enumerate(_measured(todo, jobs or cores()), 1):
            found[case, seed] = first
            kept.add({"bug": case.bug, "engine": case.engine, "limit": case.limit, "seed": seed, "run": first})
            note(f"first-bug: {number} of {len(todo)}, {case.bug} by {case.engine}, seed {seed}")
    except KeyboardInterrupt:
        result.interrupted = True
        result.not_measured.append("all that Ctrl-C left out: rows say how many seeds they are of")
    for case in chosen:
        runs = [found[task] for task in wanted if task[0] == case and task in found]
        if runs:
            result.rows.append(_row(case, runs))
    result.rows.sort(key=lambda row: (row["depth"], row["bug"], row["engine"]))
    _judge(result)
    return result


def _measured(todo: Sequence[tuple[Case, int]], jobs: int) -> Iterator[tuple[Case, int, int | None]]:
    """Yield each case and seed with its result when it is there; closing it, or an exception, ends the processes."""
    # counts of runs do not depend on how busy the machine is, so the cases may run beside each other; forked workers
    # have what `known` compiled, and all engines, whose files may change meanwhile
    for index, first in call_all(first_failing_run, todo, jobs):
        yield *todo[index], first


def _row(case: Case, runs: Sequence[int | None]) -> dict[str, Any]:
    ascending = sorted(case.limit + 1 if first is None else first for first in runs)
    bug = known(case.bug)
    return {
        "bug": case.bug,
        "depth": bug.depth[0],
        "depth_at_most": bug.depth[1],
        "planted": case.bug in planted.MITIGATIONS,
        "deep": bug.deep,
        "walk_chance": bug.chance,
        "walk_median": None if bug.chance is None else median_runs(bug.chance),
        "engine": case.engine,
        "seeds": len(runs),
        "limit": case.limit,
        "median": percentile(ascending, 50),
        "p95": percentile(ascending, 95),
        "missed": runs.count(None),
    }


def percentile(ascending: Sequence[int], percent: int) -> int:
    """Return the smallest figure that at least that many percent do not exceed."""
    return ascending[max(0, -(-len(ascending) * percent // 100) - 1)]


def _judge(result: Result) -> None:
    """Add the ratios to the random walk's median, which is at least what it is taken for, and the targets."""
    by_bug: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in result.rows:
        by_bug[row["bug"]][row["engine"]] = row
    for bug, rows in by_bug.items():
        walk = rows.get("random")
        for row in rows.values():
            row["by_random_walk"] = None if walk is None else row["median"] / walk["median"]
        any_row = next(iter(rows.values()))
        if any_row["deep"] and walk is not None:
            best = min(rows.values(), key=lambda row: row["median"])
            what = f"{bug} (depth {best['depth']}): median of {best['engine']} by that of the random walk"
            result.targets.append(WantedRatio(what, best["by_random_walk"], WANTED, at_least=False))
        elif any_row["planted"] and any_row["depth"] < DEPTH_TO_WIN:
            missed = sum(row["missed"] for row in rows.values())
            what = f"{bug} (depth {any_row['depth']}): seeds that missed it"
            result.targets.append(WantedRatio(what, missed, 0, at_least=False))
