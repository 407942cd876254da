"""What is run: a mitigation on the kernel model, or a kernel image; on which scenario, and under which memory model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.task import Task
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System


class ImageCode(Protocol):
    """The code of a kernel image, as far as test cases and searches need to know of it."""

    @property
    def digest(self) -> str:
        """The SHA-256 of what is loaded, which test cases name it by."""

    @property
    def folder(self) -> Path:
        """The folder that the image is in."""

    def task(self, scenario: Scenario, memory: str) -> Task:
        """Return the task whose schedules mean the same everywhere: each access to shared memory is a step.

        Raises ScenarioError and ImageError where the image cannot run the scenario.
        """


Code: TypeAlias = type[Mitigation] | ImageCode
"""What CPUs run: the kernel model under a mitigation, or an image's own functions."""


@dataclass(frozen=True)
class Target:
    """Code, resolved once, with all else that a run depends on but its schedule.

    `without` names the ordering points of the model that are left out; an image has none.
    """

    code: Code
    scenario: Scenario
    memory: str
    without: tuple[str, ...] = ()

    def task(self) -> Task:
        """Return its task. Raises as `System` and `ImageCode.task` do."""
        if isinstance(self.code, type):
            return System(self.scenario, self.code, self.memory, without=self.without)
        return self.code.task(self.scenario, self.memory)

    def on(self, scenario: Scenario) -> Target:
        """Return the target that has another scenario."""
        return replace(self, scenario=scenario)
