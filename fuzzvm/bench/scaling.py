"""Cost against size: states a second of the exhaustive search, over scenarios that grow by one number.

Every state is visited, with no reduction, so that the number of states is the size. Each search compiles its programs
anew, and that belongs to its cost. Seconds are those of the processor, and the sizes of a family are searched in turns:
on a shared machine the rest of it slows all alike. The family `walkers` is left out: each walker makes 20 to 30 times
the states, so three sizes are all that fit.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence

from fuzzvm.bench.result import Note, Result, WantedRatio
from fuzzvm.exhaustive import Limits
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.mitigations import registry
from fuzzvm.scenario.scale import KINDS
from fuzzvm.scenario.system import System

NAME = "scaling"
SUMMARY = "states a second over scenarios that grow by one number"
SIZES: dict[str, Sequence[int]] = {"pages": range(3, 10), "cpus": range(2, 7), "calls": (2, 4, 8, 12, 16)}
WANTED = 2.0
REPEATS = 9
LEAST = 5
"""Sizes of a family from which its spread is judged."""


def run(*, quick: bool, note: Note) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    mitigation = registry.get("static-key")
    for kind, numbers in SIZES.items():
        systems = {n: System(KINDS[kind](n), mitigation, "sc") for n in list(numbers)[: 2 if quick else None]}
        states: dict[int, int] = {}
        seconds: dict[int, list[float]] = {number: [] for number in systems}
        for repeat in range(1 if quick else REPEATS):
            for number, system in systems.items():
                note(f"scaling: {kind}-{number}, {repeat + 1}")
                states[number], taken = _search(system)
                seconds[number].append(taken)
        rates = []
        for number, times in seconds.items():
            median = statistics.median(times)
            rates.append(states[number] / median)
            row = {"family": kind, "number": number, "states": states[number], "seconds": median}
            result.rows.append({**row, "states_a_second": rates[-1]})
        if len(rates) >= LEAST:
            what = f"{kind}: highest states a second by lowest, over {len(rates)} sizes"
            result.targets.append(WantedRatio(what, max(rates) / min(rates), WANTED, at_least=False))
    return result


def _search(system: System) -> tuple[int, float]:
    """Return the number of states, and the processor's seconds."""
    gc.collect()
    gc.disable()
    began = time.process_time()
    states = search(Space(system), Limits()).states
    taken = time.process_time() - began
    gc.enable()
    return states, taken
