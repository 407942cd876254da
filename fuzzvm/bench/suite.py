"""The benchmarks by name, and what their figures were measured on."""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any, Protocol

from fuzzvm.bench.result import Note, Result

MODULES = {
    "spin": "spin",
    "frontrun": "threads",
    "hypothesis": "state_machine",
    "herd": "herd",
    "stepping": "stepping",
    "first-bug": "first_bug",
    "scaling": "scaling",
}
"""The module of each benchmark, in the order in which they run; imported when they do."""


class Benchmark(Protocol):
    """What a module of a benchmark holds."""

    NAME: str
    SUMMARY: str

    def run(self, *, quick: bool, note: Note, **more: Any) -> Result:
        """Measure; `quick` only shows that everything works. `note` is told what is under way."""


def get(name: str) -> Benchmark:
    """Return the benchmark of that name. Raises KeyError if there is none."""
    benchmark: Benchmark = importlib.import_module(f"fuzzvm.bench.{MODULES[name]}")
    return benchmark


def environment() -> dict[str, Any]:
    """Return what figures depend on: interpreter, processor, cores, and how busy the machine was, where it says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "load_at_begin": load,
    }
