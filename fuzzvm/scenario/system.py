"""A scenario under a mitigation and a memory model, as a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.contexts import KernelProgram, LockOrder
from fuzzvm.kernel.efi import efi_enter_virtual_mode
from fuzzvm.kernel.gfp import memory_runs_short
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.interrupted import InterruptedProgram
from fuzzvm.kernel.interrupts import handle, raise_interrupt
from fuzzvm.kernel.kernel import Kernel, boot_kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.page_table_property import PageTableProperty
from fuzzvm.kernel.pgtable import table_pointed_to
from fuzzvm.kernel.process_mm import NAME as CURRENT_MM
from fuzzvm.kernel.process_mm import pgd_ctor
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.blame import program_error
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Steps
from fuzzvm.machine.program import Program
from fuzzvm.machine.task import Task
from fuzzvm.mitigations.unchanged import unchanged
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.calls import Areas, Made, run_calls
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario

CAREFUL_RUNS = 16
"""Runs of a system in which each operation is looked at before it is executed. It takes as long again, and what hooks
yield hardly depends on the schedule. Runs that are traced, so all that fail, are looked at as well.
"""
MAX_SETUP_STEPS = 100_000
"""Steps that a scenario's setup may take: a small file must not be able to ask for an endless run."""


def default_memory(scenario: Scenario) -> str:
    """Return the memory model of the scenario's architecture, or `sc` as long as that model does not exist."""
    memory = architectures.get(scenario.arch).memory
    return memory if memory in memory_models.names() else "sc"


class System(Task):
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
        for call in scenario.of_functions:
            of = f"{scenario.name}: " if scenario.name else ""
            raise ScenarioError(f"{of}{call.not_modelled}", str(call))
        self.scenario = scenario
        self.mitigation_name = mitigation.name if mitigation_name is None else mitigation_name
        self.without = tuple(without)
        mitigation = mitigation.on(scenario.arch)
        self.mitigation = mitigation
        if (
            scenario.tlb
            and mitigation.functions.splits_kernel_mappings
            and scenario.cpus_with(lambda c: c.changes_attr)
        ):
            of = f"{scenario.name}: " if scenario.name else ""
            raise ScenarioError(f"{of}what TLBs hold while live mappings are split (FEAT_BBM) is not followed", "tlb")
        points = ordering_points.get(self.without)
        self.rewrite = ordering_points.rewrite(points)
        scheme = ordering_points.strip_hooks(mitigation, points)
        model = memory_models.get(memory)
        # memory must know how many CPUs there are, and only a kernel that has booted does
        beside = len(_boot(scenario, scheme, Machine(model(1))).beside)
        shared = model(len(scenario.cpus) + beside)
        shared.points_to = table_pointed_to
        machine = Machine(shared)
        machine.careful = True
        kernel = _boot(scenario, scheme, machine)
        self.lock_order = LockOrder(
            kernel.lock_name,
            contexts=kernel.interrupt_contexts,
            irqs_off=kernel.irqs_off,
            fs_reclaim=kernel.fs_reclaim,
            no_thread=scenario.irqf_no_thread,
        )
        oracles = Oracles(machine, kernel)
        machine.observer = oracles
        # CPU 0 goes on to its own calls afterwards, so it does not let go of the threads
        at_boot = replace(kernel, threads=(), interrupts=(), memory=None)
        try:
            for mm in kernel.mms[1:]:
                begins = pgd_ctor if mm.name == CURRENT_MM else efi_enter_virtual_mode
                machine.boot(self._program(partial(begins, at_boot, mm)))
            setup = self._program(partial(run_calls, at_boot, scenario.setup, ()))
            self.areas: Areas = machine.boot(setup, max_steps=MAX_SETUP_STEPS)
        except ModelError as error:
            of = f"{scenario.name}: " if scenario.name else ""
            raise ScenarioError(f"{of}setup fails: {error}", "setup") from error
        self.kernel = kernel
        self.views = [kernel.on(cpu) for cpu in range(len(scenario.cpus))]
        calls = [
            self._interrupted(k, partial(run_calls, k, its_calls, self.areas))
            for k, its_calls in zip(self.views, scenario.cpus, strict=True)
        ]
        prop = PageTableProperty(kernel, machine.allocator, oracles.remembered)
        # nobody knows whether words of the mitigation's own hold names of CPUs; a word for each CPU is such a name
        alike = () if kernel.opaque_words or kernel.irqs_off or kernel.interrupts else _alike(scenario)
        self._runs = 0
        super().__init__(machine, [*calls, *self.threads(), *self._devices()], prop, alike)

    def booted(self, *, tracing: bool = False) -> Machine:
        machine = super().booted(tracing=tracing)
        self._runs += 1
        machine.careful = tracing or self._runs <= CAREFUL_RUNS
        return machine

    def threads(self) -> list[Program]:
        """Return the program of each thread of the kernel's own, whose CPUs come after those of the scenario."""
        return [
            self._program(partial(thread.function, self.kernel.on(cpu), thread.queue))
            for cpu, thread in enumerate(self.kernel.threads, len(self.scenario.cpus))
        ]

    def _devices(self) -> list[Program]:
        """Return the programs of what raises interrupts, and of what has memory run short."""
        found = [self._program(partial(raise_interrupt, interrupt)) for interrupt in self.kernel.interrupts]
        memory = self.kernel.memory
        return found if memory is None else [*found, self._program(partial(memory_runs_short, memory.word))]

    def _interrupted(self, k: Kernel, make: Callable[[], Steps[Any]]) -> Program:
        """Return the program of a CPU of the scenario, with its interrupts."""
        made = zip(k.interrupts, self.scenario.interrupts, strict=True)
        handlers = [
            (interrupt, partial(handle, k, interrupt.context, Made(calls, self.areas)))
            for interrupt, (_, _, calls) in made
            if interrupt.cpu == k.cpu
        ]
        return InterruptedProgram(make, self.rewrite, self.lock_order, handlers) if handlers else self._program(make)

    def unchanged(self) -> AbstractContextManager[None]:
        return unchanged(self.kernel.mitigation)

    def _program(self, make: Callable[[], Steps[Any]]) -> Program:
        return KernelProgram(make, self.rewrite, self.lock_order)


def _alike(scenario: Scenario) -> list[list[int]]:
    """Return the groups of CPUs that make the same calls."""
    groups: dict[object, list[int]] = {}
    for cpu, calls in enumerate(scenario.cpus):
        groups.setdefault(calls, []).append(cpu)
    return list(groups.values())


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
            invlpgb=scenario.invlpgb,
            iommu_sva=scenario.iommu_sva,
            lookups=any(call.looks_up for call in scenario.calls),
            irqs_off=any(call.disables_irqs for call in scenario.calls),
            interrupts=[(cpu, context) for cpu, context, _ in scenario.interrupts],
            shrinkers=(Made(scenario.shrinkers),) if scenario.shrinkers else (),
            allocations_fail=scenario.allocations_fail,
        )
    except BaseException as error:
        raise program_error(error) from error
