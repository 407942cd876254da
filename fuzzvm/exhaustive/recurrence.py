"""The local states in which a CPU may be while it takes part in a cycle of states.

Around a cycle of states, whoever takes a step goes around a cycle of its automaton. Many automata have one that no run
goes around: a worker loops back to wait for more work, but between two rounds somebody has to queue it, and whoever
queues is at an end of its own some day.

So it is asked of each location that a CPU changes by read-modify-write: if nobody else writes to it around a cycle of
states, then each such operation finds what the CPU's own last one left there, under every memory model, as it acts on
the newest store. The CPU's automaton is followed together with that one value, known or not; what lies on no cycle of
the two together lies on none of the states. That may leave a CPU with no cycle at all, which then writes around none,
and so more locations are the others' own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fuzzvm.exhaustive.automaton import Automaton, Node, Values
from fuzzvm.exhaustive.cycles import on_cycle
from fuzzvm.machine.ops import Address, Free, Rmw, Store, object_of

MOST_PAIRS = 200_000
"""Local states with a value each; where there are more, local states alone decide."""

_UNKNOWN = -1


def recurrent(automata: Sequence[Automaton], values: Values) -> list[frozenset[int]]:
    """Return for each CPU the local states that may lie on a cycle of states, as far as the automata are known."""
    found = [_on_automaton_cycle(automaton) for automaton in automata]
    shrunk = True
    while shrunk:
        shrunk = False
        for cpu, automaton in enumerate(automata):
            for address in _own_locations(automata, found, cpu):
                left = _with_value(automaton, values, found[cpu], address)
                shrunk = shrunk or left != found[cpu]
                found[cpu] = left
    return found


def _on_automaton_cycle(automaton: Automaton) -> frozenset[int]:
    successors = [[target.number for target in _targets(node)] for node in automaton.nodes]
    return frozenset(number for number, cycles in enumerate(on_cycle(successors)) if cycles)


def _targets(node: Node) -> list[Node]:
    return [edge.target for edge in node.edges.values() if edge.target is not None]


def _own_locations(automata: Sequence[Automaton], cyclic: Sequence[frozenset[int]], cpu: int) -> list[Address]:
    """Return what a CPU changes by read-modify-write on its cycles, and nobody else writes to or frees on theirs."""
    writers: defaultdict[Address, set[int]] = defaultdict(set)
    changed: dict[Address, None] = {}
    freed = set()
    for other, automaton in enumerate(automata):
        for number in sorted(cyclic[other]):
            match automaton.nodes[number].op:
                case Rmw(address) as op:
                    writers[address].add(other)
                    # what compares may read something older than what the CPU itself has left there
                    if other == cpu and op.expected is None:
                        changed[address] = None
                case Store(address):
                    writers[address].add(other)
                case Free(address):
                    freed.add(object_of(address))
    return [address for address in changed if writers[address] == {cpu} and object_of(address) not in freed]


def _with_value(automaton: Automaton, values: Values, cyclic: frozenset[int], address: Address) -> frozenset[int]:
    """Return which of a CPU's cyclic local states lie on a cycle together with the value of a location of its own."""
    pairs = [(number, _UNKNOWN) for number in sorted(cyclic)]
    places = {pair: place for place, pair in enumerate(pairs)}
    successors: list[list[int]] = []
    for number, known in pairs:
        if len(pairs) > MOST_PAIRS:
            return cyclic
        node = automaton.nodes[number]
        onward = []
        for response, edge in node.edges.items():
            if edge.target is None or edge.target.number not in cyclic:
                continue
            value = known
            if (isinstance(node.op, Store) and node.op.address == address) or (
                isinstance(node.op, Rmw) and node.op.address == address and node.op.expected is not None
            ):
                value = _UNKNOWN
            elif isinstance(node.op, Rmw) and node.op.address == address:
                if known not in (_UNKNOWN, response):
                    continue
                value = values.number(node.op.update(values[response]))
            following = (edge.target.number, value)
            if following not in places:
                places[following] = len(pairs)
                pairs.append(following)
            onward.append(places[following])
        successors.append(onward)
    return frozenset(pairs[place][0] for place, cycles in enumerate(on_cycle(successors)) if cycles)
