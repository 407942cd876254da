"""Cost against size: states a second of the exhaustive search, over scenarios that grow by one number.

Every state is visited, with no reduction, so that the number of states is the size. Small scenarios are searched many
times over: each search compiles its programs anew, and that belongs to its cost.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence

from fuzzvm.bench.result import Note, Result, Target
from fuzzvm.explore.exhaustive import Limits
from fuzzvm.explore.exhaustive.search import search
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.explore.scale import KINDS
from fuzzvm.mitigations import registry
from fuzzvm.scenario.system import System

NAME = "scaling"
SUMMARY = "states a second over scenarios that grow by one number"
SIZES: dict[str, Sequence[int]] = {"pages": range(3, 10), "cpus": range(1, 4), "calls": (2, 4, 8, 12, 16)}
WANTED = 2.0
LEAST = 5
"""Sizes of a family from which its spread is judged."""


def run(*, quick: bool, note: Note) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    mitigation = registry.get("static-key")
    for kind, numbers in SIZES.items():
        rates = []
        for number in list(numbers)[: 2 if quick else None]:
            note(f"scaling: {kind}-{number}")
            system = System(KINDS[kind](number), mitigation, "sc")
            states, seconds = _search(system, 1 if quick else 9)
            rates.append(states / seconds)
            row = {"family": kind, "number": number, "states": states, "seconds": seconds}
            result.rows.append({**row, "states_a_second": rates[-1]})
        if len(rates) >= LEAST:
            what = f"{kind}: highest states a second by lowest, over {len(rates)} sizes"
            result.targets.append(Target(what, max(rates) / min(rates), WANTED, at_least=False))
    return result


def _search(system: System, repeats: int) -> tuple[int, float]:
    """Return the number of states, and the median of the seconds; fewer repeats where each takes long."""
    times: list[float] = []
    states = 0
    while len(times) < repeats and sum(times) < 5:
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        states = search(Space(system), Limits()).states
        times.append(time.perf_counter() - began)
        gc.enable()
    return states, statistics.median(times)
