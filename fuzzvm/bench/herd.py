"""herd7 and `fuzzvm litmus` on the litmus tests of a checkout: the whole time of each, file by file."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from fuzzvm.bench.result import Note, Result
from fuzzvm.bench.timing import median_ratio
from fuzzvm.supervision.interpreter import environment, python

NAME = "herd"
SUMMARY = "litmus tests under herd7 and under fuzzvm litmus"
FOLDER = Path("corpus/litmus")


def run(*, quick: bool, note: Note) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    if shutil.which("herd7") is None:
        result.not_measured.append("herd7: not on PATH")
        return result
    files = sorted(FOLDER.rglob("*.litmus"))
    if not files:
        result.not_measured.append(f"herd7: no litmus tests in {FOLDER}/")
    for path in files[:2] if quick else files:
        note(f"herd: {path.name}")
        theirs, ours, ratio = median_ratio(
            lambda path=path: _seconds("herd7", str(path)),  # type: ignore[misc]
            lambda path=path: _seconds(*python("-m", "fuzzvm", "litmus", str(path))),  # type: ignore[misc]
            1 if quick else 3,
        )
        row = {"test": path.name, "herd7_seconds": theirs, "fuzzvm_seconds": ours, "ratio": ratio}
        result.rows.append(row)
    return result


def _seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False, env=environment())
    return time.perf_counter() - began
