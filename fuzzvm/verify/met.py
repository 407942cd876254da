"""Which cover points the schedules meet that a search has explored.

No state counts anything. An edge of a CPU's automaton is made when a step is worked out that some explored state can
take, and an explored state is one that some run comes to; so the edges of all automata together are what happens in
some schedule. A reduced search leaves schedules out and no step of a run that ends: it takes one of those orders of
steps that commute (docs/decisions/0017).
"""

from __future__ import annotations

from fuzzvm.exhaustive.space import Space
from fuzzvm.kernel.cover_points import CoverPoints
from fuzzvm.scenario.system import System


def met_in(system: System, space: Space) -> frozenset[str]:
    """Return the cover points that a step of some state meets which a search of this space of a system has explored."""
    points = CoverPoints(system.kernel.arch, system.booted().allocator)
    for automaton in space.automata:
        points.said(note.annotation for note in automaton.start.notes)
        for node in automaton.nodes:
            if node.op is None:
                continue
            for response, edge in node.edges.items():
                points.executed(node.op, node.stack, space.values[response])
                points.said(note.annotation for note in edge.notes)
    return points.met
