"""Runs a workload: steps its CPUs by their clocks, counts what they execute, and measures what the page tables became.

Each CPU has a clock that its operations advance by their weights, drawn up or down a little by the seed. The CPU whose
clock is behind steps, so that CPUs go on side by side as they would; one that waited for a lock goes on from the time
at which it got it. Nothing is kept of the steps, so a run can be as long as it likes.

A reader's loads, which are nearly all that there is to step, are not traced: they are counted here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from fuzzvm.kernel.counters import Counters
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locking.lock import lock_action
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level
from fuzzvm.kernel.reach import Reach, leaves, reach_of
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Fence, Free, Load, Rmw, Steps
from fuzzvm.machine.trace import TraceStep
from fuzzvm.scenario.system import System
from fuzzvm.workload.cost import Weights
from fuzzvm.workload.parameters import LAZY_BYTES, Parameters
from fuzzvm.workload.selftest import TESTS, AreaMapped, Worker, of_mask, reader, shuffle_array, test_func

JITTER = 0.5
"""How far the time of one operation may be from its weight, as part of it."""

Progress = Callable[[int, int], None]
"""Told now and then how many steps were taken, and how many areas mapped."""
PROGRESS_EVERY = 5000


@dataclass
class Result:
    """What came of a run. Counts of `workload` are of the CPUs that run the tests, those of `readers` of the CPUs that
    dump, and those of `kernel_threads` of what a mitigation has put off (RCU callbacks, work items).

    `reach` sums, over all areas, what they were mapped by when they were handed out. `blocks_possible` are the PMD
    blocks that areas asked for with VM_ALLOW_HUGE_VMAP have room for. Times are in nanoseconds of the cost model, of
    the CPUs that run the tests: `busy` by kind of operation, `waited` for locks, and of both what the free path's locks
    have a part in (`free_path_lock`).
    """

    mitigation: str
    readers_started: int
    memory: str
    failure: Failure | None
    workload: Counters
    readers: Counters
    kernel_threads: Counters
    threads: int
    steps: int = 0
    areas: int = 0
    pages: int = 0
    reach: Reach = field(default_factory=Reach)
    blocks_possible: int = 0
    blocks_made: int = 0
    passed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    free_path_lock: float = 0.0

    @property
    def time(self) -> float:
        """Nanoseconds of the cost model, all threads together."""
        return sum(self.busy.values()) + self.waited

    @property
    def blocks_lost(self) -> int:
        """Blocks that were possible and not made."""
        return self.blocks_possible - self.blocks_made


class _Meter:
    """What a machine gives its steps to in the place of a trace."""

    def __init__(self, machine: Machine, kernel: Kernel, weights: Weights, result: Result) -> None:
        self._machine = machine
        self._kernel = kernel
        self.weights = weights
        self._result = result
        self.last = 0.0
        """Nanoseconds of the last step."""

    def append(self, step: TraceStep) -> None:
        """Count a step, and what it takes."""
        result = self._result
        result.steps += 1
        working = step.cpu < result.threads
        on_free_path = working and result.workload.on_free_path(step.cpu)
        if working:
            result.workload.append(step)
        elif step.cpu < result.threads + result.readers_started:
            result.readers.append(step)
        else:
            result.kernel_threads.append(step)
        op = step.op
        self.last = self.weights.of(op)
        if not working:
            return
        if op is not None:
            kind = _kind(step)
            result.busy[kind] = result.busy.get(kind, 0.0) + self.last
            if on_free_path and isinstance(op, Rmw) and lock_action(op, step.response) is not None:
                result.free_path_lock += self.last
        for note in step.annotations:
            if isinstance(note, AreaMapped):
                self._mapped(note)

    def _mapped(self, area: AreaMapped) -> None:
        result, geometry = self._result, self._kernel.geometry
        pages = (area.end - area.start) >> geometry.page_shift
        reach = reach_of(geometry, leaves(self._machine, geometry, area.start, area.end))
        result.areas += 1
        result.pages += pages
        result.reach.add(reach)
        if area.huge:
            result.blocks_possible += (area.end - area.start) // geometry.size(Level.PMD)
            result.blocks_made += reach.of("block") // geometry.size(Level.PMD)
        took = pages * self.weights.page
        result.busy["page"] = result.busy.get("page", 0.0) + took
        self.last += took


def _kind(step: TraceStep) -> str:
    op = step.op
    if isinstance(op, Fence):
        return "barrier" if op.kind.value.startswith(("dsb", "isb")) else "dmb"
    name = type(op).__name__.lower()
    return {
        "load": "access",
        "store": "access",
        "rmw": "atomic",
        "interruptall": "ipi",
        "cachemaintenance": "cache",
        "alloc": "table",
        "free": "table",
    }.get(name, name)


def run(
    parameters: Parameters,
    mitigation: type[Mitigation],
    readers: int,
    *,
    memory: str = "sc",
    weights: Weights | None = None,
    mitigation_name: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run the workload to its end, or until something goes wrong; return what came of it.

    Readers take turns: the first reads kernel_page_tables, the second check_wx_pages, and so on. Raises ScenarioError
    where the parameters are not possible, KeyError for an unknown memory model, ProgramError where a mitigation is
    broken.
    """
    system = System(parameters.scenario(readers), mitigation, memory, mitigation_name)
    kernel = system.kernel
    machine = system.booted(tracing=True)
    threads = parameters.nr_threads
    rng = random.Random(parameters.seed)
    workers = _workers(parameters, kernel, rng, threads + readers)
    if parameters.used:
        machine.boot(_use(replace(kernel, threads=()), parameters, workers[0]))
    done = machine.allocate(1, "workers that are done")
    workload, beside, put_off = (Counters(machine.allocator, kernel.geometry) for _ in range(3))
    result = Result(system.mitigation_name, readers, memory, None, workload, beside, put_off, threads)
    meter = _Meter(machine, kernel, weights or Weights(), result)
    machine.trace = cast("list[TraceStep]", meter)
    programs: list[Steps[Any]] = [
        test_func(view, worker, done) for view, worker in zip(system.views, workers, strict=False)
    ]
    programs += [
        reader(view, check_wx=bool(number % 2), done=done, workers=threads)
        for number, view in enumerate(system.views[threads : threads + readers])
    ]
    machine.start([*programs, *system.threads()])
    _step_by_clocks(machine, meter, result, rng, done, progress)
    result.failure = machine.failure
    for worker in workers:
        for name, count in worker.passed.items():
            result.passed[name] = result.passed.get(name, 0) + count
        for name, count in worker.failed.items():
            result.failed[name] = result.failed.get(name, 0) + count
    return result


def _workers(parameters: Parameters, kernel: Kernel, rng: random.Random, cpus: int) -> list[Worker]:
    geometry = kernel.geometry
    # fls(num_online_cpus()) sets of 32 MB, of which each thread here has its share
    lazy = parameters.lazy_max_pages or cpus.bit_length() * (LAZY_BYTES >> geometry.page_shift)
    tests, _ = of_mask(parameters.run_test_mask)
    workers = []
    for _ in range(parameters.nr_threads):
        order = [name for name in TESTS if TESTS[name]]
        if not parameters.sequential_test_order:
            shuffle_array(order, rng)
        workers.append(
            Worker(
                nr_pages=parameters.nr_pages or geometry.ptrs[Level.PTE],
                use_huge=parameters.use_huge,
                loops=parameters.test_loop_count,
                repeats=parameters.test_repeat_count,
                list_length=parameters.list_length,
                lazy_max_pages=max(1, lazy // parameters.nr_threads),
                random=random.Random(rng.getrandbits(64)),
                order=tuple(name for name in order if name in tests),
            )
        )
    return workers


def _use(kernel: Kernel, parameters: Parameters, worker: Worker) -> Steps[None]:
    """Leave a PTE table behind at every PMD that the tests can come to before the first addresses are free again."""
    geometry = kernel.geometry
    page, block = geometry.size(Level.PTE), geometry.size(Level.PMD)
    at_once = worker.lazy_max_pages + worker.nr_pages
    pages = parameters.nr_threads * min(at_once, worker.loops * worker.repeats * worker.nr_pages)
    end = min(geometry.base + (pages << geometry.page_shift), geometry.end)
    addr = geometry.base
    while addr < end:
        yield from vmap_range(kernel, addr, addr + page, addr - geometry.base, PAGE_KERNEL, geometry.page_shift)
        yield from vunmap_range(kernel, addr, addr + page)
        addr += block


def _step_by_clocks(
    machine: Machine, meter: _Meter, result: Result, rng: random.Random, done: Address, progress: Progress | None
) -> None:
    cpus, threads = machine.memory.cpus, result.threads
    end_of_readers = threads + result.readers_started
    clocks = [0.0] * cpus
    blocked: set[int] = set()
    owner = machine.memory.owner
    choose, draw = rng.randrange, rng.random
    trace = machine.trace
    readers = result.readers
    enabled = machine.enabled()
    while enabled:
        agent = enabled[0]
        for other in enabled:
            if clocks[other if other < cpus else owner(other)] < clocks[agent if agent < cpus else owner(agent)]:
                agent = other
        cpu = agent if agent < cpus else owner(agent)
        op = machine.pending(cpu) if agent < cpus else None
        if threads <= cpu < end_of_readers and type(op) is Load:
            machine.trace = None
            machine.step(agent, choose)
            machine.trace = trace
            result.steps += 1
            readers.steps += 1
            readers.walks += op.address == done
            took = meter.weights.walk
        else:
            machine.step(agent, choose)
            took = meter.last
        clocks[cpu] += took * (1 + JITTER * (2 * draw() - 1))
        if type(op) is Free:
            _forget(machine, op.address)
        enabled = machine.enabled()
        if blocked or len(enabled) < cpus:
            _wait(machine, enabled, clocks, blocked, clocks[cpu], result)
        if progress is not None and result.steps % PROGRESS_EVERY == 0:
            progress(result.steps, result.areas)
    if not machine.done:
        machine.stuck()


def _forget(machine: Machine, address: int) -> None:
    """Let memory drop what was in an object that has been freed: nobody reads it again without an error before."""
    allocation = machine.allocator.lookup(address)
    if allocation is not None and allocation.number in machine.allocator.dead:
        machine.memory.forget(address, allocation.size)


def _wait(
    machine: Machine,
    enabled: Sequence[int],
    clocks: list[float],
    blocked: set[int],
    now: float,
    result: Result,
) -> None:
    """Note which CPUs wait, and let those that do no longer go on from now."""
    for cpu in range(len(clocks)):
        waits = cpu not in enabled and machine.pending(cpu) is not None
        if waits and cpu not in blocked:
            blocked.add(cpu)
        elif not waits and cpu in blocked:
            blocked.remove(cpu)
            waited = max(0.0, now - clocks[cpu])
            clocks[cpu] += waited
            if cpu < result.threads:
                result.waited += waited
                if result.workload.on_free_path(cpu):
                    result.free_path_lock += waited
