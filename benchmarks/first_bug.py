"""Runs to the first bug of single engines: the planted bugs that count, the shipped schemes that fail, each over all
scenarios in which it does, and `static-key-enable` in `two-walkers` alone.

    python benchmarks/first_bug.py --seeds 20 --limit 250 hypothesis atheris

Prints one JSON object for each engine and bug, as soon as it is measured: median and 95th percentile of the runs (limit
+ 1 where a seed found nothing), how many seeds found nothing, and the median of the seconds of the processor that the
search took (for atheris, whose process is another one, of seconds), which say little on a shared machine.
`fuzzvm bench --only first-bug` measures all engines on all bugs, and takes hours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from fuzzvm.bench import first_bug, planted
from fuzzvm.mitigations import registry
from fuzzvm.runs import engines
from fuzzvm.runs.engines import Budget, FuzzSearch
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

TWO_WALKERS = "static-key-enable in two-walkers"


def bugs() -> dict[str, tuple[System, ...]]:
    """Return the systems of each bug."""
    systems = {bug.name: first_bug.systems(bug.name) for bug in planted.PLANTED if first_bug.known(bug.name).deep}
    systems[TWO_WALKERS] = (System(shipped.get("two-walkers"), registry.get("static-key-enable"), "sc"),)
    return systems | {name: first_bug.systems(name) for name in first_bug.failing()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", choices=engines.names())
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--limit", type=int, default=first_bug.DEEP_LIMIT)
    parser.add_argument("--bug", action="append", help="only these")
    chosen = parser.parse_args()
    known = bugs()
    for name in chosen.engines:
        for bug in chosen.bug or known:
            sys.stdout.write(json.dumps(measure(name, bug, known[bug], chosen.seeds, chosen.limit)) + "\n")
            sys.stdout.flush()


def measure(engine: str, bug: str, systems: tuple[System, ...], seeds: int, limit: int) -> dict[str, object]:
    """Return the figures of one engine on one bug."""
    runs, seconds = [], []
    clock = time.monotonic if engine == "atheris" else time.process_time
    for seed in range(seeds):
        search, started = FuzzSearch(Budget(runs=limit)), clock()
        engines.get(engine).search(systems, seed, search)
        seconds.append(clock() - started)
        runs.append(search.found[0].run if search.found else limit + 1)
    runs.sort()
    return {
        "engine": engine,
        "bug": bug,
        "seeds": seeds,
        "limit": limit,
        "median": first_bug.percentile(runs, 50),
        "p95": first_bug.percentile(runs, 95),
        "missed": sum(run > limit for run in runs),
        "seconds": round(statistics.median(seconds), 3),
    }


if __name__ == "__main__":
    main()
