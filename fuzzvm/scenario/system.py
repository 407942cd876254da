"""A scenario under a mitigation and a memory model: the thing that schedules are run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.efi import efi_enter_virtual_mode
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel, boot_kernel
from fuzzvm.kernel.oracles import Oracles, Remembered
from fuzzvm.kernel.pgtable import table_pointed_to
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine, program_error
from fuzzvm.machine.ops import Steps
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.calls import run_calls
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario

MAX_SETUP_STEPS = 100_000
"""Steps that a scenario's setup may take: a small file must not be able to ask for an endless run."""


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
        points = ordering_points.get(self.without)
        self.rewrite = ordering_points.rewrite(points)
        scheme = ordering_points.strip_hooks(mitigation, points)
        model = memory_models.get(memory)
        # memory must know how many CPUs there are, and only a kernel that has booted does
        threads = len(_boot(scenario, scheme, Machine(model(1))).threads)
        self.cpus = len(scenario.cpus) + threads
        """CPUs of the machine: those of the scenario, then those of the kernel's own threads."""
        shared = model(self.cpus)
        shared.points_to = table_pointed_to
        self._booted = Machine(shared, rewrite=self.rewrite)
        kernel = _boot(scenario, scheme, self._booted)
        oracles = Oracles(self._booted, kernel)
        self._booted.observer = oracles
        # CPU 0 goes on to its own calls afterwards, so it does not let go of the threads
        at_boot = replace(kernel, threads=())
        try:
            for mm in kernel.mms[1:]:
                self._booted.boot(efi_enter_virtual_mode(at_boot, mm))
            self.areas = self._booted.boot(run_calls(at_boot, scenario.setup, ()), max_steps=MAX_SETUP_STEPS)
        except ModelError as error:
            of = f"{scenario.name}: " if scenario.name else ""
            raise ScenarioError(f"{of}setup fails: {error}", "setup") from error
        self.remembered = Remembered(tlb=oracles.remembered.tlb)
        """What the oracles remember when a run begins: of the boot, what TLBs may hold, and nothing else."""
        self.kernel = kernel
        self.views = [kernel.on(cpu) for cpu in range(len(scenario.cpus))]

    def booted(self, *, tracing: bool = False) -> Machine:
        """Return a machine that has booted and runs nothing yet, watched by its oracles."""
        machine = self._booted.copy(tracing=tracing)
        oracles = Oracles(machine, self.kernel)
        oracles.remembered = self.remembered
        machine.observer = oracles
        return machine

    def programs(self) -> list[Callable[[], Steps[Any]]]:
        """Return for each CPU a function that returns its program anew, at its beginning."""
        return [
            *[
                partial(run_calls, k, calls, self.areas)
                for k, calls in zip(self.views, self.scenario.cpus, strict=True)
            ],
            *self.threads(),
        ]

    def threads(self) -> list[Callable[[], Steps[None]]]:
        """Return for each thread of the kernel's own a function that returns its program anew, at its beginning."""
        first = len(self.scenario.cpus)
        return [
            partial(thread.function, self.kernel.on(cpu), thread.queue)
            for cpu, thread in enumerate(self.kernel.threads, first)
        ]

    def machine(self, *, tracing: bool = False) -> Machine:
        """Return a machine that has booted, with every CPU at its first operation."""
        machine = self.booted(tracing=tracing)
        machine.start([program() for program in self.programs()])
        return machine


def _boot(scenario: Scenario, scheme: type[Mitigation], machine: Machine) -> Kernel:
    try:
        return boot_kernel(
            machine,
            architectures.get(scenario.arch),
            scenario.geometry(),
            scheme(),
            nr_cpus=len(scenario.cpus),
            other_mms=scenario.other_mms,
            lazy_mmu=scenario.lazy_mmu,
            tlb=scenario.tlb,
            walk_rereads=scenario.walk_rereads,
        )
    except Exception as error:
        raise program_error(error) from error
