"""What CPUs share, as numbered states: memory, objects, and what the property remembers.

A search sees shared state through this narrow interface. `flat` is the fast one, for sequential consistency;
`stepped` drives a machine, and so serves every memory model that has a `state()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fuzzvm.exhaustive.automaton import Edge, Node
from fuzzvm.machine.errors import Failure, ModelError
from fuzzvm.machine.ops import Address
from fuzzvm.machine.stuck import stuck_error


class Finding(NamedTuple):
    """What went wrong: the error's id, and the function that it happened in ('' for the run as a whole)."""

    error: str
    function: str

    @classmethod
    def of(cls, failure: Failure) -> Finding:
        """Return what a run's failure is about."""
        return cls(failure.error, failure.function)


class Outcome(NamedTuple):
    """One way that a step can go: what it chose, the shared state after it, where the CPU is then, or what went wrong.

    `edge` is None where an agent of the memory model stepped.
    """

    choices: tuple[int, ...]
    shared: int
    node: Node | None
    edge: Edge | None = None
    finding: Finding | None = None


class Shared(Protocol):
    """Numbered shared states.

    `start` is the one after boot, with every CPU at its first operation (`nodes`), or what went wrong until there.
    """

    start: int | Finding
    nodes: list[Node]

    @property
    def states(self) -> Sequence[Any]:
        """What each shared state is made of, by number."""

    def step(self, shared: int, cpu: int, node: Node) -> Sequence[Outcome]:
        """Return every way that a CPU's step can go; none where it is blocked."""

    def holds(self, shared: int, address: Address) -> bool:
        """Return whether an address is that of a location of an object, dead or alive."""

    def agents(self, shared: int) -> Sequence[int]:
        """Return the memory model's own agents that can step."""

    def step_agent(self, shared: int, agent: int) -> Sequence[Outcome]:
        """Return every way that the step of one of the memory model's own agents can go."""

    def finished(self, shared: int) -> Finding | None:
        """Return what is wrong with a run that ends here."""

    def blockers(self, shared: int, cpu: int, node: Node) -> tuple[int, ...]:
        """Return the CPUs that the blocked operation of a CPU waits for."""


def stuck(shared: Shared, number: int, nodes: Sequence[Node]) -> Finding:
    """Return what is wrong where programs are left and nobody can step."""
    running = {cpu: node for cpu, node in enumerate(nodes) if node.op is not None}
    edges = {cpu: shared.blockers(number, cpu, node) for cpu, node in running.items()}
    stacks = {cpu: node.stack for cpu, node in running.items()}
    error, cpu = stuck_error(edges, stacks)
    return Finding(error.error, stacks[cpu][0])


def finding_of(error: ModelError, stack: tuple[str, ...]) -> Finding:
    """Return what an error in a function is about."""
    return Finding(error.error, stack[0] if stack else "")
