"""The behaviour that the automata of a search know: paths through them that have every step.

Every edge of every automaton is on some path. After the first edge that no path before it had, a path goes on along
such edges for as long as there are any; so the paths together are little longer than the automata are large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fuzzvm.exhaustive.automaton import Automaton, Edge, Node
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine.ops import Operation
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism.behaviour import RETURNS, Behaviour, Writer, done, failed, step_text

MAX_STEPS = 20_000
"""Steps of the paths of one CPU; past them, paths are left out. Those of what ships have up to two thousand."""


def behaviour_of(system: System, space: Space) -> Behaviour:
    """Return what the automata of a space of a system know. Raises UnsendableError."""
    writer = Writer(system.kernel)
    for cpu, automaton in enumerate(space.automata):
        steps = 0
        for edges in _paths(automaton):
            path = [cpu, writer.text(_text(None, None, automaton.start))]
            for node, response in edges:
                value = space.values[response]
                path += [writer.response(value), writer.text(_text(node.op, value, node.edges[response]))]
            steps += len(edges)
            if steps > MAX_STEPS:
                break
            writer.paths.append(tuple(path))
    return writer.behaviour()


def _text(before: Operation | None, response: Any, edge: Edge) -> str:
    if edge.error is not None:
        after = failed(edge.error.error, edge.stack)
    else:
        assert edge.target is not None
        after = RETURNS if edge.target.op is None else done(edge.target.op, edge.target.stack)
    return step_text(before, response, edge.notes, after)


def _paths(automaton: Automaton) -> Iterable[list[tuple[Node, int]]]:
    """Yield paths from the beginning that have every edge, each as the edges in their order."""
    left = {(node.number, response) for node in automaton.nodes for response in node.edges}
    if not left:
        yield []
    for node in automaton.nodes:
        for response in list(node.edges):
            if (node.number, response) not in left:
                continue
            path = [*_origin(node), (node, response)]
            while True:
                left.difference_update((before.number, answer) for before, answer in path)
                last, answer = path[-1]
                at = last.edges[answer].target
                following = () if at is None else [one for one in at.edges if (at.number, one) in left]
                if at is None or not following:
                    break
                path.append((at, following[0]))
            yield path


def _origin(node: Node) -> list[tuple[Node, int]]:
    """Return the edges that led to a local state first."""
    found = []
    while node.origin is not None:
        found.append(node.origin)
        node = node.origin[0]
    return found[::-1]
