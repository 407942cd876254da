"""frontrun on the flat model as two Python threads: its DPOR to a verdict, its random engine in schedules a second.

frontrun runs real threads and switches them at accesses to shared attributes and elements, which is what one would use
to test such Python code; the model is the same, at the grain of those accesses. Its DPOR is given no bound on
preemptions, since fuzzvm's verdict has none.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from fuzzvm.bench.flat_model import FlatTask
from fuzzvm.bench.result import Note, Result, WantedRatio
from fuzzvm.exhaustive import verify
from fuzzvm.machine.execution import execute
from fuzzvm.runs.strategies.random_walk import RandomWalk

NAME = "frontrun"
SUMMARY = "the flat model as two threads under frontrun: DPOR and random"
PROGRAM = Path(__file__).parent / "peers" / "frontrun_flat.py"
SLOTS = 4
SECONDS = 60.0
"""What frontrun's DPOR may take before it is stopped; the ratio is then a lower bound, and says so."""
WANTED = 200.0


def missing() -> str:
    """Return '' where frontrun can be run, else what is missing."""
    if importlib.util.find_spec("frontrun") is None or _command() is None:
        return "the package frontrun is not installed"
    return ""


def _command() -> str | None:
    beside = Path(sys.executable).parent / "frontrun"
    return str(beside) if beside.is_file() else shutil.which("frontrun")


def run_frontrun(strategy: str, slots: int, scheme: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Explore the flat model with one of frontrun's engines; return what its program prints.

    Raises CalledProcessError.
    """
    with tempfile.TemporaryDirectory() as folder:
        # frontrun does not follow installed packages, which the program is part of, and would find nothing in it
        program = shutil.copy(PROGRAM, folder)
        command = [_command() or "frontrun", sys.executable, program, strategy, str(slots), scheme, str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds * 2 + 60)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run(*, quick: bool, note: Note) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    if lacks := missing():
        result.not_measured.append(f"frontrun: {lacks}")
        return result
    for slots in (1, 2) if quick else (1, 2, 3, SLOTS):
        for scheme in ("none", "static-key"):
            note(f"frontrun: DPOR, {slots} slots, {scheme}")
            theirs = run_frontrun("dpor", slots, scheme)
            began = time.perf_counter()
            repeats = 5
            verdicts = [verify(FlatTask(slots, 1, scheme)) for _ in range(repeats)]
            seconds = statistics.median(verdict.seconds for verdict in verdicts)
            ratio = theirs["seconds"] / seconds
            agree = theirs["holds"] == (verdicts[0].verdict == "safe")
            if not agree:
                result.not_measured.append(f"frontrun: {slots} slots, {scheme}: its verdict is another")
            row = {
                "engine": "dpor",
                "slots": slots,
                "scheme": scheme,
                "frontrun_seconds": theirs["seconds"],
                "frontrun_executions": theirs["executions"],
                "stopped_early": theirs["ended_early"],
                "fuzzvm_seconds": seconds,
                "fuzzvm_with_start_seconds": (time.perf_counter() - began) / repeats,
                "ratio": ratio,
                "verdicts_agree": agree,
            }
            result.rows.append(row)
            if slots == SLOTS and scheme == "static-key":
                least = ", at least (it was stopped)" if theirs["ended_early"] else ""
                result.targets.append(WantedRatio(f"DPOR at {slots} slots, time by fuzzvm's{least}", ratio, WANTED))
    note("frontrun: random")
    theirs = run_frontrun("random", SLOTS, "static-key")
    rate = theirs["executions"] / theirs["seconds"]
    ours = _runs_a_second(0.5)
    result.rows.append(
        {
            "engine": "random",
            "slots": SLOTS,
            "scheme": "static-key",
            "frontrun_runs_a_second": rate,
            "fuzzvm_runs_a_second": ours,
            "ratio": ours / rate,
        }
    )
    return result


def _runs_a_second(seconds: float) -> float:
    system = FlatTask(SLOTS)
    strategy = RandomWalk(Random(0))
    runs = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        execute(system.machine(), strategy)
        runs += 1
    return runs / (time.perf_counter() - began)
