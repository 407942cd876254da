"""The state space of one task: states as integers, steps as table look-ups.

A state is one integer: the number of the shared state in the low bits, the local state of each CPU above. What a
CPU's step does depends on the shared state and that CPU's local state alone, so it is kept in a table by those two,
as the difference that it makes to the integer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from fuzzvm.exhaustive.automaton import Automaton, Edge, Values
from fuzzvm.exhaustive.flat import FlatShared
from fuzzvm.exhaustive.needs import Anything, Assumed, OutdatedError
from fuzzvm.exhaustive.shared import Finding, Outcome, Shared, stuck
from fuzzvm.exhaustive.stepped import SteppedShared
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.machine import NO_LOCATION
from fuzzvm.machine.memory import MemoryModel
from fuzzvm.machine.ops import Barrier, Free
from fuzzvm.machine.task import Task

T = TypeVar("T")

SHARED_BITS = 32
LOCAL_BITS = 20
SHARED_MASK = (1 << SHARED_BITS) - 1
LOCAL_MASK = (1 << LOCAL_BITS) - 1


class StateBoundError(Exception):
    """A state has no number any more: a CPU has more local states than fit."""


class Way(NamedTuple):
    """One way of a step that has several, or that goes wrong: the difference to the state, or what went wrong."""

    choices: tuple[int, ...]
    delta: int
    finding: Finding | None


_NO_AGENTS: dict[int, tuple[Way, ...]] = {}

Entry = int | tuple[Way, ...]
"""What a table holds: the difference that the only way makes, 0 where no step is possible, else all ways."""


def ways_of(entry: Entry) -> tuple[Way, ...]:
    """Return the ways of a table's entry; none where no step is possible."""
    if isinstance(entry, int):
        return (Way((), entry, None),) if entry else ()
    return entry


class Lane:
    """The steps of one CPU. `mask` takes from a state what they depend on, `table` holds those known by that."""

    def __init__(self, space: Space, cpu: int) -> None:
        self.cpu = cpu
        self.shift = SHARED_BITS + cpu * LOCAL_BITS
        self.mask = SHARED_MASK | LOCAL_MASK << self.shift
        self.table: dict[int, Entry] = {}
        self.edges: tuple[Edge, ...] = ()
        """What the CPU's program did in the step that was computed last, for each way of it."""
        self.nodes = space.automata[cpu].nodes
        """The CPU's local states, by number."""
        self._space = space
        self._sound: set[int] = set()
        """Local states whose operation is of a location that there is."""

    def local(self, state: int) -> int:
        """Return the number of the CPU's local state."""
        return state >> self.shift & LOCAL_MASK

    def compute(self, key: int) -> Entry:
        """Return what the step does, and keep it."""
        number, local = key & SHARED_MASK, key >> self.shift
        entry: Entry = 0
        self.edges = ()
        if local:
            if local not in self._sound:
                self._check(number, local)
            outcomes = self._space.shared.step(number, self.cpu, self.nodes[local])
            if len(outcomes) == 1:
                # nearly all steps have one way, to another state
                choices, shared, target, edge, finding = outcomes[0]
                if edge is not None:
                    self.edges = (edge,)
                if not choices and finding is None and target is not None and target.number <= LOCAL_MASK:
                    entry = shared - number + (target.number - local << self.shift)
            else:
                self.edges = tuple([outcome.edge for outcome in outcomes if outcome.edge is not None])
            if not entry:
                entry = self._ways(number, local, outcomes)
        self.table[key] = entry
        return entry

    def _check(self, number: int, local: int) -> None:
        """Raise ProgramError where a local state's operation has an address at which nothing was ever allocated.

        A free of what is no object is an error of its own, which the allocator sees.
        """
        node = self.nodes[local]
        address = None if isinstance(node.op, Free) else getattr(node.op, "address", None)
        if address is not None and not self._space.shared.holds(number, address):
            raise self._space.automata[self.cpu].bad_operation(node, NO_LOCATION)
        self._sound.add(local)

    def _ways(self, number: int, local: int, outcomes: Sequence[Outcome]) -> Entry:
        ways = []
        for outcome in outcomes:
            delta = 0
            if outcome.node is not None:
                if outcome.node.number > LOCAL_MASK:
                    raise StateBoundError(f"CPU {self.cpu} has more than {LOCAL_MASK} local states")
                delta = outcome.shared - number + (outcome.node.number - local << self.shift)
            ways.append(Way(outcome.choices, delta, outcome.finding))
        # a step that changes nothing is a way, lest it be taken for none
        return tuple(ways) if ways else 0


class Space:
    """The state space of a task. `start` is its first state, or what goes wrong before any step.

    `fast` takes the tuples of `flat` where the memory model is sc, else machines are copied. `live_only` merges local
    states that differ in dead variables alone, `without_text` those that differ in the rows that walks print, which no
    oracle looks at. `forget` lets memory forget what no CPU needs any more: steps may raise OutdatedError then, which
    `settled` answers. With `strong_twin_of`, memory is sequentially consistent whatever the task has, and the
    automata are those of that space: what one learns, the other knows.
    """

    def __init__(
        self,
        task: Task,
        *,
        fast: bool = True,
        live_only: bool = True,
        without_text: bool = True,
        forget: bool = True,
        strong_twin_of: Space | None = None,
    ) -> None:
        self.task = task
        weak = strong_twin_of is None and not (fast and task.memory == "sc")
        if strong_twin_of is None:
            self.values = Values(live_only=live_only, without_text=without_text)
            self.automata = [Automaton(program, self.values) for program in task.programs()]
        else:
            self.values, self.automata = strong_twin_of.values, strong_twin_of.automata
        self.lanes = [Lane(self, cpu) for cpu in range(len(self.automata))]
        self._agents: dict[int, dict[int, tuple[Way, ...]]] = {}
        self.weak = weak
        """Whether memory is weak: it steps on a machine (`SteppedShared`), and may have agents of its own."""
        self.shared: Shared
        self.start: int | Finding
        self._assumed: Assumed | None = None
        if self.weak:
            boot = task.booted()
            model = memory_models.get(task.memory)
            forgets = forget and model.normalise is not MemoryModel.normalise
            kind = Assumed if forgets else Anything
            unwatched = frozenset(range(len(boot.allocator.allocations))) - boot.watched
            self._assumed = kind(self.automata, unwatched, model, task.property.observed())
        self._begin()

    def _begin(self) -> None:
        """Number states from the first one on."""
        task, automata = self.task, self.automata
        if self._assumed is None:
            self.shared = FlatShared(task, automata, self.values)
        else:
            self.shared = SteppedShared(task, automata, self.values, self._assumed)
        self.start = self.shared.start
        if isinstance(self.start, int):
            for lane, node in zip(self.lanes, self.shared.nodes, strict=True):
                self.start += node.number << lane.shift

    @property
    def assumed(self) -> Assumed | None:
        """What CPUs are assumed to do, where memory forgets by that; None where it forgets nothing."""
        return self._assumed if self._assumed is not None and self._assumed.forgets else None

    @property
    def memory_assumed(self) -> Assumed | None:
        """What memory is told of CPUs, whether or not it forgets anything by that; None under the flat model."""
        return self._assumed

    def restore_assumed(self, bits: Sequence[tuple[str, int | Barrier]], frozen: list[list[int]]) -> None:
        """Begin again with what was assumed of CPUs in another process, once the automata know what they knew there.

        Raises ValueError where that is something else.
        """
        assert self._assumed is not None
        self._assumed.restore(bits, frozen)
        self._begin()

    def renew(self) -> None:
        """Begin again, with what is known by now of what CPUs do; states have other numbers afterwards."""
        if self._assumed is not None:
            self._assumed.renew()
            self._agents.clear()
            for lane in self.lanes:
                lane.table.clear()
            self._begin()

    def settled(self, search: Callable[[], T]) -> T:
        """Return what a search of this space returns, done again where it found out that CPUs do more than assumed."""
        while True:
            try:
                return search()
            except OutdatedError:
                self.renew()

    def agent_steps(self, state: int) -> dict[int, tuple[Way, ...]]:
        """Return the ways of each of the memory model's own agents that can step."""
        number = state & SHARED_MASK
        found = self._agents.get(number)
        if found is None:
            found = _NO_AGENTS
            if agents := self.shared.agents(number):
                found = {}
                for agent in agents:
                    outcomes = self.shared.step_agent(number, agent)
                    found[agent] = tuple(Way(o.choices, o.shared - number, o.finding) for o in outcomes)
            self._agents[number] = found
        return found

    def steps(self, state: int) -> list[tuple[int, Way]]:
        """Return every step that can be taken: the agent, and the way. For where speed does not matter."""
        found = []
        for lane in self.lanes:
            key = state & lane.mask
            entry = lane.table.get(key)
            if entry is None:
                entry = lane.compute(key)
            found += [(lane.cpu, way) for way in ways_of(entry)]
        for agent, agent_ways in self.agent_steps(state).items():
            found += [(agent, way) for way in agent_ways]
        return found

    def ended(self, state: int) -> Finding | None:
        """Return what is wrong with a run that ends in a state that has no steps."""
        if state >> SHARED_BITS:
            nodes = [self.automata[lane.cpu].nodes[lane.local(state)] for lane in self.lanes]
            return stuck(self.shared, state & SHARED_MASK, nodes)
        return self.shared.finished(state & SHARED_MASK)
