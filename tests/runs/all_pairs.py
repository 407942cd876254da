"""Every ordered pair of conflicting operations that some run of a system has, by a search of its states."""

from __future__ import annotations

from collections.abc import Hashable

from fuzzvm.exhaustive.space import Space
from fuzzvm.machine.ops import Await, Fetch, Free, Load, Operation, Rmw, Store, object_of
from fuzzvm.runs.coverage import Pair, Site
from fuzzvm.scenario.system import System


def all_pairs(system: System) -> set[Pair]:
    space = Space(system)
    assert isinstance(space.start, int)
    pairs: set[Pair] = set()
    first: tuple[int, frozenset[tuple[tuple[Hashable, int], tuple[Site, bool]]]] = space.start, frozenset()
    seen, todo = {first}, [first]
    while todo:
        state, before = todo.pop()
        for cpu, way in space.steps(state):
            lane = space.lanes[cpu]
            node = lane.nodes[lane.local(state)]
            assert node.op is not None
            site = (cpu, *node.site)
            last = dict(before)
            for place, writes in _accesses(node.op):
                for (other_place, other), (other_site, wrote) in before:
                    if other_place == place and other != cpu and (writes or wrote):
                        pairs.add((other_site, site))
                last[place, cpu] = site, writes
            following = state + way.delta, frozenset(last.items())
            if way.finding is None and following not in seen:
                seen.add(following)
                todo.append(following)
    return pairs


def _accesses(op: Operation) -> list[tuple[Hashable, bool]]:
    if isinstance(op, Free):
        return [(("object", object_of(op.address)), True)]
    if isinstance(op, Load | Store | Rmw | Await | Fetch):
        return [(op.address, isinstance(op, Store | Rmw)), (("object", object_of(op.address)), False)]
    return []
