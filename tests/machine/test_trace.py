"""fuzzvm.machine.trace: records of runs and their digests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.machine.ops import Load, Store
from fuzzvm.machine.trace import TraceStep, digest

STEP = TraceStep(1, 0, 0, Load(3), 7, ("inner", "outer"))

RUN = """
from fuzzvm.machine.execution import execute
from fuzzvm.machine.trace import digest
from fuzzvm.mitigations.registry import shipped
from fuzzvm.scenario.shipped import shipped as scenarios
from fuzzvm.scenario.system import System
from tests.support import Seeded

for scenario in scenarios().values():
    for mitigation in shipped().values():
        machine = System(scenario, mitigation, "sc").machine(tracing=True)
        execution = execute(machine, Seeded(5))
        print(digest(machine.trace, [repr(execution.failure)]))
"""


def test_everything_about_a_step_counts() -> None:
    others = [
        TraceStep(2, 0, 0, Load(3), 7, ("inner", "outer")),
        TraceStep(1, 1, 0, Load(3), 7, ("inner", "outer")),
        TraceStep(1, 0, 0, Load(4), 7, ("inner", "outer")),
        TraceStep(1, 0, 0, Store(3, 7), 7, ("inner", "outer")),
        TraceStep(1, 0, 0, Load(3), 8, ("inner", "outer")),
        TraceStep(1, 0, 0, Load(3), 7, ("inner",)),
        TraceStep(1, 0, 0, Load(3), 7, ("inner", "outer"), 1),
    ]
    digests = {digest([step]) for step in [STEP, *others]}
    assert len(digests) == 1 + len(others)


def test_the_ending_counts() -> None:
    assert len({digest([STEP]), digest([STEP], ["safe"]), digest([STEP], ["safe", ""]), digest([])}) == 4


@pytest.mark.parametrize("seeds", [("0", "1"), ("2", "random")])
def test_a_digest_does_not_depend_on_the_process(seeds: tuple[str, str]) -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", RUN],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in seeds
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") > 30
