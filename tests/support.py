"""What several test files need: booted kernels, choosers, and searches that are exhaustive within a bound."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel, boot_kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import Geometry
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.execution import Execution, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Operation, Steps
from fuzzvm.mitigations.none import NoMitigation

T = TypeVar("T")


class Seeded:
    """A chooser that draws every choice from a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        return self._random.choice(enabled)

    def value(self, ways: int) -> int:
        return self._random.randrange(ways)


class Follow:
    """A chooser that takes the agents of a list, then stays on the agent it is at for as long as that can step.

    `taken` is the agents that stepped. `forks` holds, for every step after the list, the agents that could have
    stepped instead, and whether taking one of them would have pre-empted the agent before.
    """

    def __init__(self, agents: Sequence[int] = ()) -> None:
        self._agents = agents
        self.taken: list[int] = []
        self.forks: list[tuple[int, tuple[int, ...], bool]] = []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        place = len(self.taken)
        if place < len(self._agents):
            agent = self._agents[place]
        else:
            current = self.taken[-1] if self.taken else None
            agent = current if current is not None and current in enabled else enabled[0]
            others = tuple(other for other in enabled if other != agent)
            if others:
                self.forks.append((place, others, current in enabled))
        self.taken.append(agent)
        return agent

    def value(self, ways: int) -> int:
        return 0


REAL_TABLES = """\
arch = "arm64"
page_size = "4K"
levels = 4
fanout = 512
setup = ["vmap(page=0, nr_pages=512, max_page_shift='pte')", "vunmap(page=0, nr_pages=512)"]
cpus = [
    ["vmap(page=0, nr_pages=512, max_page_shift='pmd')"],
    ["cat_kernel_page_tables()"],
]
"""
"""A scenario of a user's own: a promotion beside a dump, with tables of as many entries as a kernel's."""


def executions(start: Callable[[], Machine], preemptions: int) -> Iterator[Execution]:
    """Run every schedule in which at most that many steps pre-empt a CPU that could have gone on."""
    todo: list[tuple[tuple[int, ...], int]] = [((), 0)]
    while todo:
        prefix, used = todo.pop()
        chooser = Follow(prefix)
        yield execute(start(), chooser)
        for place, others, preempts in chooser.forks:
            if used + preempts <= preemptions:
                before = tuple(chooser.taken[:place])
                todo.extend(((*before, other), used + preempts) for other in others)


def find_failure(start: Callable[[], Machine], preemptions: int) -> Failure | None:
    """Return the failure of the first failing schedule, those with fewer pre-emptions first; None if all are safe."""
    for bound in range(preemptions + 1):
        for execution in executions(start, bound):
            if execution.failure is not None:
                return execution.failure
    return None


def random_failures(start: Callable[[], Machine], runs: int) -> set[str]:
    """Return the ids of what seeded random schedules find."""
    failures = (execute(start(), Seeded(seed)).failure for seed in range(runs))
    return {failure.error for failure in failures if failure is not None}


def start_machine(*programs: Steps[Any], tracing: bool = False) -> Machine:
    """Return a machine that stands at the first operation of each program, with memory of its own."""
    machine = Machine(SequentialConsistency(len(programs)), tracing=tracing)
    machine.start(programs)
    return machine


def geometry_of(arch: str, levels: int, fanout: int, page_shift: int = 12, cont_ptes: int = 1) -> Geometry:
    """Return the geometry of a scenario on that architecture."""
    architecture = architectures.get(arch)
    start = architecture.vmalloc_start_of(levels)
    return Geometry.make(page_shift, levels, fanout, start, cont_ptes, cont_ptes)


def boot(
    arch: str = "arm64",
    levels: int = 4,
    fanout: int = 2,
    mitigation: type[Mitigation] = NoMitigation,
    cpus: int = 3,
    *,
    tracing: bool = False,
    geometry: Geometry | None = None,
    lazy_mmu: bool = False,
) -> tuple[Machine, Kernel]:
    """Return a machine that has not started and the kernel booted on it, with the oracles watching."""
    machine = Machine(SequentialConsistency(cpus), tracing=tracing)
    geometry = geometry_of(arch, levels, fanout) if geometry is None else geometry
    kernel = boot_kernel(machine, architectures.get(arch), geometry, mitigation(), lazy_mmu=lazy_mmu)
    machine.observer = Oracles(machine, kernel)
    return machine, kernel


def run(machine: Machine, *programs: Steps[Any], agents: Sequence[int] = ()) -> Failure | None:
    """Run programs to the end, along a list of agents and then one after the other; return what went wrong."""
    machine.start(programs)
    return execute(machine, Follow(agents)).failure


def operations(machine: Machine) -> list[Operation]:
    """Return the operations that a traced machine has executed."""
    assert machine.trace is not None
    return [step.op for step in machine.trace if step.op is not None]


def burst(*parts: tuple[int, int]) -> list[int]:
    """Return a list of agents from pairs of agent and number of steps."""
    return [agent for agent, steps in parts for _ in range(steps)]


def agents_until(start: Callable[[], Machine], agent: int, reached: Callable[[Machine], bool]) -> int:
    """Return after how many steps of one agent, alone from the start, a condition holds for the first time."""
    machine = start()
    for steps in count():
        if reached(machine):
            return steps
        machine.step(agent, lambda ways: 0)
    raise AssertionError


def heed_sigint() -> None:
    """Let a child process die of Ctrl-C, though whoever started the tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


_TELLS = """
from pathlib import Path
from fuzzvm.mitigations.mmap_lock_always import MmapLockAlways
class Tells(MmapLockAlways):
    name = "tells"
    def before_clear(self, k, level):
        Path({begun!r}).touch()
        yield from super().before_clear(k, level)
"""


def tells_that_it_runs(folder: Path) -> tuple[str, Callable[[], bool]]:
    """Write a safe scheme to a folder; return its name, and what says whether some schedule has run under it."""
    begun = folder / "begun"
    (folder / "tells.py").write_text(_TELLS.format(begun=str(begun)), encoding="utf-8")
    return f"{folder / 'tells.py'}:Tells", begun.exists
