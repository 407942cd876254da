"""Which local states of an automaton lie on a cycle (Tarjan 1972: strongly connected components)."""

from __future__ import annotations

from fuzzvm.explore.automaton import Automaton, Node


def on_cycle(automaton: Automaton) -> list[bool]:
    """Return for each local state whether it lies on a cycle of the automaton as far as that is known."""
    nodes = automaton.nodes
    found = [False] * len(nodes)
    order = [0] * len(nodes)
    low = [0] * len(nodes)
    open_nodes: list[int] = []
    is_open = [False] * len(nodes)
    visits = 0
    for root in range(len(nodes)):
        if order[root]:
            continue
        todo = [(root, iter(_successors(nodes[root])))]
        while todo:
            place, successors = todo[-1]
            if not order[place]:
                visits += 1
                order[place] = low[place] = visits
                open_nodes.append(place)
                is_open[place] = True
            for following in successors:
                if not order[following]:
                    todo.append((following, iter(_successors(nodes[following]))))
                    break
                if is_open[following]:
                    low[place] = min(low[place], order[following])
                    found[place] = found[place] or following == place
            else:
                todo.pop()
                if todo:
                    low[todo[-1][0]] = min(low[todo[-1][0]], low[place])
                if low[place] == order[place]:
                    members: list[int] = []
                    while not members or members[-1] != place:
                        members.append(open_nodes.pop())
                    for member in members:
                        is_open[member] = False
                        found[member] = found[member] or len(members) > 1
    return found


def _successors(node: Node) -> list[int]:
    return [edge.target.number for edge in node.edges.values() if edge.target is not None]
