"""Which places of a graph lie on a cycle (Tarjan 1972: strongly connected components)."""

from __future__ import annotations

from collections.abc import Sequence


def on_cycle(successors: Sequence[Sequence[int]]) -> list[bool]:
    """Return for each place whether it lies on a cycle; `successors` are numbers of places."""
    found = [False] * len(successors)
    order = [0] * len(successors)
    low = [0] * len(successors)
    open_nodes: list[int] = []
    is_open = [False] * len(successors)
    visits = 0
    for root in range(len(successors)):
        if order[root]:
            continue
        todo = [(root, iter(successors[root]))]
        while todo:
            place, onward = todo[-1]
            if not order[place]:
                visits += 1
                order[place] = low[place] = visits
                open_nodes.append(place)
                is_open[place] = True
            for following in onward:
                if not order[following]:
                    todo.append((following, iter(successors[following])))
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
