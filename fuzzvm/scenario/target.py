"""What is run: a mitigation on the kernel model, or a kernel image; on which scenario, and under which memory model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from fuzzvm.kernel.hooks import Mitigation, Verdict
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

    def task_to_search(self, scenario: Scenario, memory: str, until: float | None = None) -> Task:
        """Return the task in which accesses that nobody can tell are no steps. Raises as `task`.

        `until`, by the monotonic clock, bounds what is learnt of which these are.
        """


Code: TypeAlias = type[Mitigation] | ImageCode
"""What CPUs run: the kernel model under a mitigation, or an image's own functions."""


@dataclass(frozen=True)
class Target:
    """Code, resolved once, with all else that a run depends on but its schedule.

    `without` names the ordering points of the model that are left out; an image has none. `name` is what the code was
    asked for by, where that is not the name it has.
    """

    code: Code
    scenario: Scenario
    memory: str
    without: tuple[str, ...] = ()
    name: str | None = None

    @property
    def claim(self) -> Verdict | None:
        """The verdict that a mitigation claims; None where it claims nothing, as nothing does without a point."""
        if self.without or not isinstance(self.code, type):
            return None
        return self.scenario.expected(self.code)

    def system(self) -> System:
        """Return its task, where the code is a mitigation on the kernel model. Raises as `System` does."""
        assert isinstance(self.code, type)
        return System(self.scenario, self.code, self.memory, self.name, self.without)

    def task(self) -> Task:
        """Return its task. Raises as `System` and `ImageCode.task` do."""
        return self.system() if isinstance(self.code, type) else self.code.task(self.scenario, self.memory)

    def task_ending(self, error: str) -> Task:
        """Return its task, of which a run is known to end with an error. Raises as `task`."""
        task = self.task()
        if isinstance(task, System):
            task.lock_order.watch_for(error)
        return task

    def task_to_search(self, until: float | None = None) -> Task:
        """Return the task that is searched: of an image, not the one that test cases are runs of. Raises as `task`."""
        if isinstance(self.code, type):
            return self.system()
        return self.code.task_to_search(self.scenario, self.memory, until)

    def on(self, scenario: Scenario) -> Target:
        """Return the target that has another scenario."""
        return replace(self, scenario=scenario)
