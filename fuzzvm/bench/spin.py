"""Spin on the flat model: the whole time of both tools from nothing to a verdict, and that of the search alone.

Spin's whole time is `spin -a`, `cc -O2`, and `./pan`; fuzzvm's is a process from its start. Each tool is run as it
comes (`default`: partial-order reduction on both sides, symmetry on fuzzvm's), and without reduction (`every`), where
both must visit the same number of states.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzzvm.bench.flat_model import SCHEMES
from fuzzvm.bench.result import Note, Result, WantedRatio
from fuzzvm.bench.timing import interleaved
from fuzzvm.supervision.interpreter import environment, python

NAME = "spin"
SUMMARY = "the flat model under Spin: whole time, search alone, bytes a state"
MODEL = Path(__file__).parent / "peers" / "flat.pml"

SIZES = ((16, 1), (64, 1), (32, 2), (100, 2), (180, 2), (500, 1), (35, 4))
"""Slots and walkers, from 3,325 states to about 3 million, along each of the two."""
QUICK_SIZES = ((8, 1), (16, 1))
SMALL = 100_000
"""Up to this many states fuzzvm is to be three times as fast; above, not slower."""
REPEATS = 5
ENOUGH = 12.0
"""Seconds after which no further round begins: large models are measured once."""
DEPTH = 1_000_000
"""Longest path that pan may follow."""


def missing() -> str:
    """Return '' where Spin can be run, else what is missing."""
    for tool in ("spin", "cc"):
        if shutil.which(tool) is None:
            return f"{tool} is not on PATH"
    return ""


def run_spin(slots: int, walkers: int, scheme: str, *, reduced: bool = True) -> dict[str, Any]:
    """Verify the flat model with Spin; return states, safe, and seconds of each phase. Raises CalledProcessError."""
    defines = [f"-DN={slots}", f"-DWALKERS={walkers}", f"-DSCHEME={SCHEMES[scheme]}"]
    # -o3 keeps spin from merging steps, so that states can be compared one by one
    spin = ["spin", "-a", *([] if reduced else ["-o3"]), *defines, str(MODEL)]
    vector = 1024 + 16 * slots
    compiler = ["cc", "-O2", "-DSAFETY", f"-DVECTORSZ={vector}", "-DMEMLIM=16000", "-o", "pan", "pan.c"]
    if not reduced:
        compiler.insert(3, "-DNOREDUCE")
    with tempfile.TemporaryDirectory(prefix="fuzzvm-spin-") as folder:
        times = []
        for command in (spin, compiler, ["./pan", f"-m{DEPTH}"]):
            began = time.perf_counter()
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=command[0] != "./pan")
            times.append(time.perf_counter() - began)
    output = done.stdout
    if "max search depth too small" in output or "out of memory" in output or "State-vector" not in output:
        raise RuntimeError(f"pan did not finish: {output[-300:]}")
    return {
        "states": int(_number(r"(\S+) states, stored", output)),
        "safe": int(_number(r"errors: (\d+)", output)) == 0,
        "whole": sum(times),
        "search": times[2],
        "vector": int(_number(r"State-vector (\d+) byte", output)),
        "equivalent_bytes": _number(r"(\S+)\s+equivalent memory usage", output, 0.0) * 2**20,
        "bytes": _number(r"(\S+)\s+total actual memory usage", output) * 2**20,
    }


def run_fuzzvm(slots: int, walkers: int, scheme: str, *, reduced: bool = True) -> dict[str, Any]:
    """Verify the flat model in a process of its own; return the same figures as `run_spin`."""
    mode = "default" if reduced else "every"
    command = python("-m", "fuzzvm.bench.flat_child", str(slots), str(walkers), scheme, mode)
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    whole = time.perf_counter() - began
    figures = json.loads(done.stdout)
    return {**figures, "whole": whole, "search": figures["seconds"]}


def run(*, quick: bool, note: Note) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    if lacks := missing():
        result.not_measured.append(f"Spin: {lacks}")
        return result
    for slots, walkers in QUICK_SIZES if quick else SIZES:
        row: dict[str, Any] = {"slots": slots, "walkers": walkers}
        states = 0
        for reduced in (False, True):
            mode = "default" if reduced else "every"
            note(f"spin: {slots} slots, {walkers} walkers, {mode}")
            last: dict[str, dict[str, Any]] = {}
            taken: dict[str, list[float]] = {"spin": [], "fuzzvm": []}

            def measure(tool: str, last: Any = last, taken: Any = taken, reduced: bool = reduced) -> float:
                call = run_spin if tool == "spin" else run_fuzzvm
                last[tool] = call(slots, walkers, "static-key", reduced=reduced)  # noqa: B023 - called in this turn
                taken[tool].append(last[tool]["search"])
                return float(last[tool]["whole"])

            measures = {tool: lambda tool=tool: measure(tool) for tool in taken}
            whole = interleaved(measures, 1 if quick else REPEATS, seconds=ENOUGH)
            search = {tool: sorted(times)[len(times) // 2] for tool, times in taken.items()}
            spin, fuzzvm = last["spin"], last["fuzzvm"]
            row[mode] = {
                "verdicts_agree": spin["safe"] == fuzzvm["safe"],
                "spin_states": spin["states"],
                "fuzzvm_states": fuzzvm["states"],
                "spin_whole_seconds": whole["spin"],
                "fuzzvm_whole_seconds": whole["fuzzvm"],
                "whole_ratio": whole["spin"] / whole["fuzzvm"],
                "spin_search_seconds": search["spin"],
                "fuzzvm_search_seconds": search["fuzzvm"],
                "search_ratio": search["spin"] / search["fuzzvm"],
            }
            if not reduced:
                states = spin["states"]
                row["states"] = states
                row["spin_vector_bytes"] = spin["vector"]
                row["spin_bytes_a_state"] = spin["bytes"] / states
                row["fuzzvm_bytes_a_state"] = fuzzvm["bytes"] / states
        result.rows.append(row)
        wanted = 3.0 if states <= SMALL else 1.0
        what = f"{slots} slots, {walkers} walkers, {states} states: whole time of Spin by that of fuzzvm, as each comes"
        result.targets.append(WantedRatio(what, row["default"]["whole_ratio"], wanted))
    return result


def _number(pattern: str, text: str, default: float | None = None) -> float:
    found = re.search(pattern, text)
    if found is None:
        if default is None:
            raise RuntimeError(f"pan says nothing like {pattern!r}")
        return default
    return float(found.group(1))
