"""Why a run in which programs are left cannot go on: CPUs wait for each other, or one waits for what nobody will do."""

from __future__ import annotations

from operator import index

from fuzzvm.machine.errors import DEADLOCK, NO_PROGRESS, ModelError
from fuzzvm.machine.ops import Await, Rmw, Value


def stuck_error(edges: dict[int, tuple[int, ...]], stacks: dict[int, tuple[str, ...]]) -> tuple[ModelError, int]:
    """Return what is wrong where no CPU can step, and the CPU to name; `edges` says whom each one waits for."""
    cycle = find_cycle(edges)
    if cycle:
        following = [*cycle[1:], cycle[0]]
        waits = zip(cycle, following, strict=True)
        where = ", ".join(f"CPU {cpu} in {stacks[cpu][0]} waits for CPU {other}" for cpu, other in waits)
        return ModelError(DEADLOCK, where), cycle[0]
    cpu = min(edges)
    return ModelError(NO_PROGRESS, f"CPU {cpu} waits in {stacks[cpu][0]} and nobody is left to end the wait"), cpu


def find_cycle(edges: dict[int, tuple[int, ...]]) -> list[int]:
    """Return the nodes of one cycle of a graph, in order, or nothing; the same one for the same graph."""

    def visit(path: list[int]) -> list[int]:
        for following in edges.get(path[-1], ()):
            if following in path:
                return path[path.index(following) :]
            if cycle := visit([*path, following]):
                return cycle
        return []

    for start in sorted(edges):
        if cycle := visit([start]):
            return cycle
    return []


def blockers_of(op: Await | Rmw, value: Value) -> tuple[int, ...]:
    """Return the CPUs that an operation waits for, given the value of its location.

    Raises what its condition raises, and TypeError where that returns anything but numbers.
    """
    return () if op.when is None else tuple([index(cpu) for cpu in op.when.blocked_by(value)])
