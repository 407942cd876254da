"""A machine whose CPUs are given kernel calls while it runs: for state machines, and for people at a prompt.

What was done on it is an ordinary scenario with an ordinary schedule at any time that the run is over. A CPU that is
given a call while it is in another one makes it afterwards, as a scenario's CPU does with its list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.tables import Mapping
from fuzzvm.kernel.vmalloc import VmapArea
from fuzzvm.kernel.workqueue import WorkOrEnd, queue_no_more
from fuzzvm.machine.errors import Failure, ModelError
from fuzzvm.machine.execution import MAX_STEPS, Chooser, Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory import Choose
from fuzzvm.machine.ops import Rmw, Steps
from fuzzvm.machine.schedule import Schedule, Step
from fuzzvm.machine.trace import TraceStep
from fuzzvm.scenario.calls import Areas, Call
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System, default_memory


class _Queue:
    """The calls that one CPU has still to make, and the areas that it has after those it made."""

    def __init__(self, areas: Areas) -> None:
        self.areas = areas
        self.calls: list[Call] = []
        self.last_step = 0

    def run_calls(self, k: Kernel) -> Steps[None]:
        """Make calls until none is left: the program of a CPU, under the name that it has in traces."""
        while self.calls:
            self.areas = yield from self.calls[0].run(k, self.areas)
            del self.calls[0]


def run_calls(k: Kernel) -> Steps[None]:
    """Let go of the kernel's threads: the end of the program of a CPU, under the name that it has in traces."""
    yield from queue_no_more(k)


class _LowestFirst:
    """The chooser that runs the lowest agent as long as it can, as sequential consistency would."""

    def __init__(self) -> None:
        self._agent = -1

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        if self._agent not in enabled:
            self._agent = enabled[0]
        return self._agent

    def value(self, ways: int) -> int:
        return 0


class InteractiveSystem:
    """A kernel that has booted, with `cpus` CPUs that idle.

    Whenever all of them idle the run is over, and is checked like one: leaked tables, keys and locks are found there.
    `setup` is called at boot; `memory` None is the model of the architecture. Raises ScenarioError where the
    arguments make no valid scenario, KeyError for an unknown memory model.
    """

    def __init__(
        self,
        arch: str,
        page_size: str,
        levels: int,
        fanout: int,
        mitigation: type[Mitigation],
        memory: str | None,
        cpus: int,
        *,
        setup: Sequence[Call] = (),
        mitigation_name: str | None = None,
        tracing: bool = False,
    ) -> None:
        self.scenario = Scenario(arch, page_size, levels, fanout, tuple(setup), ((),) * cpus)
        self.system = System(self.scenario, mitigation, memory or default_memory(self.scenario), mitigation_name)
        self._queues = [_Queue(self.system.areas) for _ in range(cpus)]
        programs: list[Steps[object]] = [
            queue.run_calls(k) for queue, k in zip(self._queues, self.system.views, strict=True)
        ]
        self._machine = self.system.booted(tracing=tracing)
        self._machine.start([*programs, *self.system.threads()])
        self._oracles = Oracles(self._machine, self.system.kernel)
        self._schedule: list[Step] = []

    # What it is doing

    @property
    def failure(self) -> Failure | None:
        """What went wrong, or None if nothing did so far."""
        return self._machine.failure

    @property
    def schedule(self) -> Schedule:
        """The steps so far."""
        return tuple(self._schedule)

    @property
    def trace(self) -> Sequence[TraceStep] | None:
        """The trace so far, where `tracing` was asked for."""
        return self._machine.trace

    @property
    def over(self) -> bool:
        """Whether the run has failed, or every CPU idles, memory has settled, and the kernel's threads want work."""
        return self._machine.done or (self._threads_want_work() and not self._machine.enabled())

    def _threads_want_work(self) -> bool:
        """Whether only threads of the kernel's own run, and each waits for work."""
        machine = self._machine
        pending = [machine.pending(cpu) for cpu in range(self.system.cpus)]
        waiting = pending[len(self._queues) :]
        return not any(pending[: len(self._queues)]) and all(
            isinstance(op, Rmw) and isinstance(op.when, WorkOrEnd) for op in waiting
        )

    def idle(self, cpu: int) -> bool:
        """Return whether a CPU has made all calls that it was given."""
        return not self._queues[cpu].calls

    def waiting_calls(self, cpu: int) -> int:
        """Return the number of calls that a CPU has to make, the one that it is in counted."""
        return len(self._queues[cpu].calls)

    def areas(self, cpu: int) -> dict[str, int]:
        """Return the addresses of the areas that a CPU has, by name, after the calls that it has made."""
        return dict(self._queues[cpu].areas)

    def mappings(self) -> list[Mapping]:
        """Return every mapping that the page tables hold now, in ascending order of address."""
        return list(self._oracles.mappings())

    def vmap_areas(self) -> tuple[VmapArea, ...]:
        """Return the areas that vmalloc has handed out, those that are freed lazily included."""
        areas = self._machine.memory.peek(self.system.kernel.vmap_area_root)
        return areas if isinstance(areas, tuple) else ()

    def enabled(self) -> Sequence[int]:
        """Return the agents that can step, in ascending order.

        CPUs, then the threads of the kernel's own, then the memory model's own agents.
        """
        return tuple(self._machine.enabled())

    # What it is told

    def call(self, cpu: int, call: Call) -> None:
        """Give a CPU a call to make after those that it was given.

        Raises ScenarioError where the calls so far with this one are no valid scenario or the call needs an mm that
        was not there at boot, and ValueError once the run has failed, or has been made a scenario of.
        """
        if self.failure is not None:
            raise ValueError("the run has failed")
        if self._machine.done and self.system.kernel.threads:
            raise ValueError("the run is over")
        cpus = self.scenario.cpus
        scenario = replace(self.scenario, cpus=(*cpus[:cpu], (*cpus[cpu], call), *cpus[cpu + 1 :]))
        if set(scenario.other_mms) - {mm.name for mm in self.system.kernel.mms}:
            raise ScenarioError(f"this kernel has booted without the mm of {call}")
        self.scenario = scenario
        queue = self._queues[cpu]
        queue.calls.append(call)
        if len(queue.calls) == 1:
            self._machine.assign(cpu, queue.run_calls(self.system.views[cpu]))
            if self.failure is not None:
                # a CPU with a list of calls would have come here right after its last step
                del self._schedule[queue.last_step :]

    def step(self, agent: int, count: int = 1, ways: Sequence[int] = ()) -> int:
        """Let an agent step up to `count` times, as long as it can; return how often it did.

        Steps that can go on in more than one way take those of `ways` in turn, modulo what there is, then the first.
        """
        left = list(reversed(ways))
        taken = 0
        while taken < count and agent in self._machine.enabled() and self._may_step():
            self._step(agent, lambda number: left.pop() % number if left else 0)
            taken += 1
        self._check_idle()
        return taken

    def finish(self, chooser: Chooser | None = None) -> None:
        """Let every CPU make the calls that it has, as a chooser says, or one CPU as long as it can, the lowest first.

        A deadlock, a wait that nobody ends, and whatever else goes wrong is in `failure` afterwards.
        """
        chooser = chooser or _LowestFirst()
        while (enabled := self._machine.enabled()) and self._may_step():
            self._step(chooser.agent(enabled, self._machine), chooser.value)
        if not self.over:
            self._machine.stuck()
        self._check_idle()

    def _check_idle(self) -> None:
        """End the run where every CPU idles and something is wrong that only the end would tell of."""
        if not self._machine.done and self.over:
            try:
                self._oracles.finished()
            except ModelError:
                self._end()

    def _end(self) -> None:
        """Let every CPU end, and with them the threads of the kernel's own."""
        for cpu, k in enumerate(self.system.views):
            self._machine.assign(cpu, run_calls(k))
        chooser = _LowestFirst()
        while enabled := self._machine.enabled():
            self._step(chooser.agent(enabled, self._machine), chooser.value)

    def _may_step(self) -> bool:
        if len(self._schedule) < MAX_STEPS:
            return True
        self._machine.exceeded(MAX_STEPS, endless=True)
        return False

    def _step(self, agent: int, choose: Choose) -> None:
        chosen: list[int] = []

        def record(ways: int) -> int:
            chosen.append(choose(ways))
            return chosen[-1]

        self._machine.step(agent, record)
        self._schedule.append((agent, *chosen))
        if agent < len(self._queues):
            self._queues[agent].last_step = len(self._schedule)

    def to_scenario_and_schedule(self) -> tuple[Scenario, Execution]:
        """Return the scenario whose CPUs have the calls that were given, and the execution that the run is of it.

        The threads of the kernel's own end with it: where there are any, no calls can be given afterwards. Raises
        ValueError as long as the run is not over: `finish` first.
        """
        if not self.over:
            raise ValueError("the run is not over")
        if not self._machine.done:
            self._end()
        return self.scenario, Execution(self.schedule, self.failure)
