"""A scenario for compiled code as a task: what is there at boot, and the calls of each CPU."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import islice, permutations
from typing import Self, TypeVar

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.arch import Layout, running
from fuzzvm.compiled.run.boundary import BOUNDARY, FLUSHES, IGNORED
from fuzzvm.compiled.run.entries import AskedCall, CpuCalls, Word, known
from fuzzvm.compiled.run.environment import Boundary, Environment, Setup
from fuzzvm.compiled.run.executable import Executable
from fuzzvm.compiled.run.knowledge import Knowledge
from fuzzvm.compiled.run.links import ENTRY, BootLinks, PageTables
from fuzzvm.compiled.run.memory_map import MemoryMap
from fuzzvm.compiled.run.own_memory import OWN_MEMORY
from fuzzvm.compiled.run.private import base_of
from fuzzvm.compiled.run.program import CompiledProgram
from fuzzvm.compiled.run.tlb import ARCH as TLB_ARCH
from fuzzvm.compiled.run.tlb import Followed
from fuzzvm.compiled.run.units import Units
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import ModelError, OutdatedProgramError, ProgramError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address
from fuzzvm.machine.task import Task
from fuzzvm.machine.tlb import TlbState

T = TypeVar("T")

MAX_BOOT_STEPS = 1_000_000
QUIET_RUNS = 5
MAX_LEARNING_STEPS = 100_000
"""Of one run: one that goes on for ever teaches no more."""
MOST_ORDERS = 6


class CompiledTask(Task):
    """CPUs that call functions of an image, after CPU 0 has made the calls of `boot`.

    `boundary` are functions that the user states, by name; they go before those of the model. With `assume`, reading
    what nobody writes is no step (`knowledge`). Dependencies of instructions are `tracked`, which weak memory asks for.
    With `tlb`, what TLBs and walk caches may hold is followed, from boot on.
    Raises ImageError, and ModelError where the calls of boot go wrong.
    """

    def __init__(
        self,
        image: Image,
        memory: str,
        boot: CpuCalls,
        cpus: Sequence[CpuCalls],
        boundary: Mapping[str, Boundary] | None = None,
        *,
        assume: bool = True,
        tracked: bool = True,
        tlb: bool = False,
    ) -> None:
        if tlb and image.manifest.arch != TLB_ARCH:
            raise ImageError(f"what TLBs may hold is not followed for images of {image.manifest.arch}")
        self.image = image
        self._tlb = tlb
        self._memory = memory
        self._boot_calls = boot
        self._cpu_calls = tuple(cpus)
        others = frozenset[str]().union(*(names for arch, names in FLUSHES.items() if arch != image.manifest.arch))
        stood_for = {name: function for name, function in BOUNDARY.items() if name not in others}
        self._functions = _functions(image, {**stood_for, **(boundary or {})})
        self._own_memory = _functions(image, OWN_MEMORY)
        self._ignored = frozenset(_functions(image, dict.fromkeys(IGNORED)))
        thunks = running(image.manifest.arch).thunks
        self._thunks = frozenset(_functions(image, dict.fromkeys(thunks)))
        stops = (*self._functions, *self._own_memory, *self._ignored, *self._thunks)
        names = {address: image.name_at(address) for address in stops}
        self._executable = Executable(image, names, tracked=tracked)
        self._units = Units()
        self._begin(None, assume=assume)

    def _begin(self, knowledge: Knowledge | None, *, assume: bool) -> None:
        machine, environment, held = self._booted()
        if assume and knowledge is None:
            knowledge = Knowledge(len(machine.allocator.allocations), partial(_integer, machine.copy()))
        self.environment = replace(environment, knowledge=knowledge)
        programs = [
            CompiledProgram(self.environment, _setup(environment, cpu, calls, machine))
            for cpu, calls in enumerate(self._cpu_calls)
        ]
        super().__init__(machine, programs, self._property(machine, held))
        # what boot has run is not what the CPUs run
        self._executable.code.forget_runs()

    def has_run(self) -> frozenset[int]:
        """Return the addresses of the instructions that CPUs have run since the task was made, boot left out."""
        return self._executable.code.has_run()

    def _property(self, machine: Machine, held: TlbState | None) -> PageTables:
        image, memory = self.image, self.environment.memory
        roots = _roots(image, memory)
        for allocation in machine.allocator.allocations[memory.boot_objects :]:
            machine.watch(allocation.address)
        for root in roots:
            machine.watch(root)
        lock = image.symbol("init_mm").address + image.types.offset("mm_struct", "mmap_lock", "count")
        count = memory.location(lock, 8)
        assert count is not None
        if self.environment.knowledge is not None:
            # the property looks at it in the end, also where the kernel takes it with no order
            self.environment.knowledge.watch(count.address)
        locks = {"init_mm.mmap_lock": count}
        return PageTables(memory, roots, locks, memory.boot_objects, self.environment.followed, held)

    def again(self) -> Self:
        other = copy(self)
        knowledge = self.environment.knowledge
        if knowledge is not None:
            knowledge.begin()
            self._executable.unused.clear()
        other._begin(knowledge, assume=knowledge is not None)
        return other

    def every_access(self) -> CompiledTask:
        """Return the task in which every access to memory that CPUs share is a step, whatever is known.

        Its schedules mean the same everywhere: they rest on the image, the calls and the memory model alone.
        """
        other = copy(self)
        other._units = Units()
        other._begin(None, assume=False)
        return other

    def learned(self, runs: int = QUIET_RUNS, seed: int = 0, until: float | None = None) -> CompiledTask:
        """Return the task to search: runs have shown nearly all that there is to know of who accesses what.

        First one CPU after the other runs to its end, in each order, and then CPUs chosen at random, until so many runs
        in a row have shown nothing new, or it is `until` by the monotonic clock. What is not learnt here is learnt by
        the search, which begins again then.
        """
        knowledge = self.environment.knowledge
        assert knowledge is not None
        choice = random.Random(seed)
        orders = list(islice(permutations(range(self.cpus)), MOST_ORDERS))
        quiet = 0
        task = self
        with knowledge.taught():
            while (orders or quiet < runs) and (until is None or time.monotonic() < until):
                grown = knowledge.grown
                order = orders.pop() if orders else None
                with suppress(OutdatedProgramError, ModelError, ProgramError):
                    machine = task.machine()
                    while machine.steps < MAX_LEARNING_STEPS and (enabled := machine.enabled()):
                        agent = choice.choice(enabled) if order is None else min(enabled, key=_place_in(order))
                        machine.step(agent, choice.randrange)
                if grown == knowledge.grown:
                    quiet += 1
                else:
                    quiet, task = 0, task.again()
        return task.again()

    def _booted(self) -> tuple[Machine, Environment, TlbState | None]:
        """Return a machine after the calls of boot, what CPUs share, and what TLBs may hold if that is followed."""
        layout = self._executable.arch.layout(self.image)
        while True:
            machine = Machine(memory_models.get(self._memory)(len(self._cpu_calls)))
            machine.memory.points_to = _nowhere
            memory_map = MemoryMap(self.image, layout, machine, _boot_values(self.image, layout), self._units)
            environment = Environment(
                self._executable, memory_map, None, self._functions, self._own_memory, self._ignored, self._thunks
            )
            boot_links = None
            if self._tlb:
                roots = _roots(self.image, memory_map)
                environment = replace(environment, followed=Followed.of(memory_map, roots[-1]))
                boot_links = machine.observer = BootLinks(
                    machine, PageTables(memory_map, roots, {}, memory_map.boot_objects, environment.followed)
                )
                for root in roots:
                    machine.watch(root)
            try:
                for calls in _in_turn(self._boot_calls):
                    boot = CompiledProgram(environment, _setup(environment, 0, calls, machine))
                    machine.boot(boot, max_steps=MAX_BOOT_STEPS)
                for calls in self._cpu_calls:
                    # what is asked there may make a location wider than was known
                    known(calls, machine, memory_map)
            except OutdatedProgramError:
                continue
            machine.observer = None
            return machine, environment, None if boot_links is None else boot_links.remembered


def _roots(image: Image, memory: MemoryMap) -> list[Address]:
    """Return the root tables that an image has; that of init_mm is the last."""
    return [
        unit.address
        for name in image.arch.tables
        if image.symbols_named(name) and (unit := memory.location(image.symbol(name).address, ENTRY)) is not None
    ]


def _in_turn(calls: CpuCalls) -> Iterator[CpuCalls]:
    """Yield calls, one by one if one needs to know the page tables that those before it make."""
    if any(one.needs_tables for one in calls.calls):
        for one in calls.calls:
            yield CpuCalls((one,))
    else:
        yield calls


def _place_in(order: Sequence[int]) -> Callable[[int], int]:
    """Return what sorts agents by their place in an order of CPUs, the memory's own first."""
    return lambda agent: order.index(agent) if agent < len(order) else -1


def _nowhere(value: object) -> int:
    """Programs say what they depend on: no value needs to be a pointer."""
    return 0


def _integer(machine: Machine, address: Address) -> int:
    value = machine.memory.peek(address)
    return value if isinstance(value, int) else 0


def _functions(image: Image, boundary: Mapping[str, T]) -> dict[int, T]:
    """Return the functions of an image that are not run, by address; clones of a function count as it."""
    found: dict[int, T] = {}
    for symbol in image.symbols:
        name = symbol.name if not symbol.defined else image.source_name(symbol)
        if name in boundary and (symbol.kind == "function" or not symbol.defined):
            found[symbol.address] = boundary[name]
    return found


def _boot_values(image: Image, layout: Layout) -> dict[int, bytes]:
    """Return the variables that early boot has set, by address; static keys may be used (jump_label_init)."""
    values = {"static_key_initialized": b"\1", **running(image.manifest.arch).boot_values(image, layout)}
    return {
        image.symbol(name).address + int(offset or 0): value
        for name, _, offset, value in ((*key.partition("+"), value) for key, value in values.items())
        if image.symbols_named(name)
    }


def _setup(environment: Environment, cpu: int, calls: CpuCalls, machine: Machine) -> Setup:
    image, arch = environment.memory.image, environment.executable.arch
    registers, cells = arch.cpu(image, base_of(cpu, arch.own_size))
    made, given = known(calls, machine, environment.memory)
    return Setup(cpu, made, {**cells, **given}, registers)


def call(image: Image, name: str, *arguments: Word, cells: Mapping[int, tuple[int, Word]] | None = None) -> AskedCall:
    """Return a call of a function of the image. Raises ImageError where there is none."""
    most = len(running(image.manifest.arch).abi.arguments)
    if len(arguments) > most:
        raise ImageError(f"{name}: more than {most} arguments are not supported")
    words = tuple(word & (1 << 64) - 1 if isinstance(word, int) else word for word in arguments)
    return AskedCall(image.function(name).address, words, cells or {})
