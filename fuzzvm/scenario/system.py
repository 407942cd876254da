"""A scenario under a mitigation and a memory model: the thing that schedules are run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import boot_kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import table_pointed_to
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine, program_error
from fuzzvm.machine.ops import Steps
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.calls import Areas, run_calls
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario


def default_memory(scenario: Scenario) -> str:
    """Return the memory model of the scenario's architecture, or `sc` as long as that model does not exist."""
    memory = architectures.get(scenario.arch).memory
    return memory if memory in memory_models.names() else "sc"


class System:
    """Boots once, and hands out machines that stand at the first step of a run.

    `mitigation_name` is what the mitigation was asked for by, where that is not the name it has; `without` names the
    ordering points that are left out. Raises ScenarioError where the setup itself goes wrong, KeyError for an unknown
    memory model or ordering point, ProgramError where the mitigation cannot be attached.
    """

    def __init__(
        self,
        scenario: Scenario,
        mitigation: type[Mitigation],
        memory: str,
        mitigation_name: str | None = None,
        without: Sequence[str] = (),
    ) -> None:
        self.scenario = scenario
        self.mitigation_name = mitigation.name if mitigation_name is None else mitigation_name
        self.memory = memory
        self.without = tuple(without)
        self.mitigation = mitigation
        cpus = len(scenario.cpus)
        model = memory_models.get(memory)(cpus)
        model.points_to = table_pointed_to
        points = ordering_points.get(self.without)
        self.rewrite = ordering_points.rewrite(points)
        scheme = ordering_points.strip_hooks(mitigation, points)
        self._booted = Machine(model, rewrite=self.rewrite)
        try:
            arch, geometry = architectures.get(scenario.arch), scenario.geometry()
            kernel = boot_kernel(self._booted, arch, geometry, scheme(), walk_rereads=scenario.walk_rereads)
        except Exception as error:
            raise program_error(error) from error
        self._booted.observer = Oracles(self._booted, kernel)
        try:
            self.areas = self._booted.boot(run_calls(kernel, scenario.setup, ()))
        except ModelError as error:
            raise ScenarioError(f"setup fails: {error}", "setup") from error
        self.kernel = kernel
        self.views = [kernel.on(cpu) for cpu in range(cpus)]

    def booted(self, *, tracing: bool = False) -> Machine:
        """Return a machine that has booted and runs nothing yet, watched by its oracles."""
        machine = self._booted.copy(tracing=tracing)
        machine.observer = Oracles(machine, self.kernel)
        return machine

    def programs(self) -> list[Callable[[], Steps[Areas]]]:
        """Return for each CPU a function that returns its program anew, at its beginning."""
        return [
            partial(run_calls, k, calls, self.areas) for k, calls in zip(self.views, self.scenario.cpus, strict=True)
        ]

    def machine(self, *, tracing: bool = False) -> Machine:
        """Return a machine that has booted, with every CPU at its first operation."""
        machine = self.booted(tracing=tracing)
        machine.start([program() for program in self.programs()])
        return machine
