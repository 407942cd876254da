"""Small programs that jump back, so that there are cycles: of states, or of a CPU's automaton alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from hypothesis import strategies as st

from fuzzvm.exhaustive.space import Space
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Load, Operation, Rmw, Steps, Store
from fuzzvm.machine.task import Task
from tests.exhaustive.small_programs import IsPositive, allocate_words

WORDS = 2
STEPS_OF_A_STATE = 4
"""On average, at most."""


@dataclass(frozen=True, slots=True)
class Becomes:
    """Puts a value in place of what is there."""

    value: int

    def __call__(self, old: Any) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class Turned:
    """Adds one, modulo three."""

    def __call__(self, old: Any) -> Any:
        return (old + 1) % 3


class Line(NamedTuple):
    """An operation, and where the program goes on if the response is `on`; with the next line otherwise."""

    kind: str
    word: int
    on: int
    goto: int


def operation(line: Line, words: Sequence[Address]) -> Operation:
    """Return what a line executes."""
    address = words[line.word]
    match line.kind:
        case "load":
            return Load(address)
        case "take":
            return Rmw(address, Becomes(0), when=IsPositive())
        case "put":
            return Rmw(address, Becomes(1))
        case "turn":
            return Rmw(address, Turned())
        case "keep":
            return Rmw(address, Becomes(0))
    return Store(address, 1 if line.kind == "set" else 0)


def run(lines: tuple[Line, ...], ops: tuple[Operation, ...]) -> Steps[None]:
    """Execute the lines until one goes past the last."""
    index = 0
    while index < len(ops):
        response = yield ops[index]
        index = lines[index].goto if response == lines[index].on else index + 1


class LoopingTask(Task):
    """A task whose CPUs execute these lines."""

    def __init__(self, memory: str, lines: Sequence[Sequence[Line]]) -> None:
        machine = Machine(memory_models.get(memory)(len(lines)))
        words = allocate_words(machine)
        runs = [
            partial(run, tuple(its_lines), tuple(operation(line, words) for line in its_lines)) for its_lines in lines
        ]
        super().__init__(machine, list(map(GeneratorProgram, runs)))


LINES = st.builds(
    Line,
    st.sampled_from(["load", "take", "take", "put", "put", "turn", "keep", "set", "clear"]),
    st.integers(0, WORDS - 1),
    st.sampled_from([0, 1, 1, 2]),
    st.integers(0, 4),
)
PROGRAMS = st.lists(st.lists(LINES, min_size=1, max_size=4), min_size=2, max_size=3)


class Graph(NamedTuple):
    """All states of a space, unreduced: what follows each, and which CPU (None: memory itself) makes that step."""

    states: list[int]
    following: list[list[tuple[int | None, int]]]
    ends: list[int]


def graph(space: Space, most: int) -> Graph | None:
    """Return all states of a space without errors; None where there are more than that, or one fails.

    Under arm64 a loop that writes makes ever more stores that a load may read, so steps are bounded as well.
    """
    assert isinstance(space.start, int)
    states, places = [space.start], {space.start: 0}
    following: list[list[tuple[int | None, int]]] = []
    ends = []
    steps = 0
    for state in states:
        if len(states) > most or steps > most * STEPS_OF_A_STATE:
            return None
        onward: list[tuple[int | None, int]] = []
        for agent, way in space.steps(state):
            if way.finding is not None:
                return None
            target = state + way.delta
            if target not in places:
                places[target] = len(states)
                states.append(target)
            onward.append((agent if agent < len(space.lanes) else None, places[target]))
        if not onward:
            ends.append(len(following))
        steps += len(onward)
        following.append(onward)
    return Graph(states, following, ends)


def components(following: Sequence[Sequence[int]]) -> list[int]:
    """Return the strongly connected component of each place (Kosaraju and Sharir)."""
    order: list[int] = []
    seen = [False] * len(following)
    for root in range(len(following)):
        todo = [(root, False)]
        while todo:
            place, done = todo.pop()
            if done:
                order.append(place)
            elif not seen[place]:
                seen[place] = True
                todo.append((place, True))
                todo += [(target, False) for target in following[place]]
    before: list[list[int]] = [[] for _ in following]
    for place, targets in enumerate(following):
        for target in targets:
            before[target].append(place)
    component = [-1] * len(following)
    for number, root in enumerate(reversed(order)):
        stack = [root]
        while stack:
            place = stack.pop()
            if component[place] < 0:
                component[place] = number
                stack += before[place]
    return component
