"""What a scenario is for: the cover points that some schedule has to meet, or the verdict is vacuous.

A scenario is for what happens in it with no scheme in the way: a few schedules without a mitigation say what that is.
Beside them its calls speak for themselves: a vmap that a block fits, beside a walk, is meant to promote, and does not
where the scenario has no table for it. A scheme with a static key has its branch executed both ways as well, where a
walk and a promotion meet. What a scheme says that it gives up (`Mitigation.gives_up`) is not asked of it.
"""

from __future__ import annotations

import functools
from itertools import islice, permutations

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.cover_points import (
    BRANCH_NOT_TAKEN,
    BRANCH_TAKEN,
    COLLAPSE,
    CONTIGUOUS_BLOCK,
    LOOKUP,
    POINTS,
    PROMOTION,
    SPLIT,
    TABLE_FREED,
    WALK,
    WALKED_TABLE_FREED,
    WX_NOTED,
    CoverPoints,
    watch,
)
from fuzzvm.machine.execution import InTurn, execute
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario, race
from fuzzvm.scenario.system import System

_BRANCH = frozenset({BRANCH_TAKEN, BRANCH_NOT_TAKEN})
ORDERS = 24
"""Schedules without a mitigation: each CPU to its end, in up to so many orders."""


def missing(system: System, met: frozenset[str]) -> tuple[str, ...]:
    """Return the cover points that a system is for, that its scheme does not give up, and that are not among `met`."""
    left = possible(system) - met - frozenset(system.mitigation.gives_up)
    # most often none is left, and nobody needs to know what happens without the scheme
    wanted = left & wanted_of(system) if left else left
    return tuple(point for point in POINTS if point in wanted)


def wanted_of(system: System) -> frozenset[str]:
    """Return the cover points that a system is for, with those that its scheme gives up."""
    wanted = purpose(system.scenario.anonymous(), system.without)
    if system.kernel.static_keys and not system.without and {PROMOTION, WALKED_TABLE_FREED} <= wanted:
        wanted |= _BRANCH
    return wanted


def possible(system: System) -> frozenset[str]:
    """Return the cover points that the calls of a system's scenario can meet at all: those that it is for, and more."""
    scenario = system.scenario
    geometry = scenario.geometry()
    calls = scenario.calls
    collapses = architectures.get(scenario.arch).collapses
    promotes = any(call.may_promote(geometry) for call in calls)
    collapse = collapses and system.mitigation.functions.collapses and any(call.collapses for call in calls)
    frees = promotes or collapse or any(call.removes for call in calls)
    walks = any(call.walks for call in calls)
    may_be = {
        PROMOTION: promotes,
        CONTIGUOUS_BLOCK: geometry.cont_ptes > 1,
        COLLAPSE: collapse,
        SPLIT: collapses and any(call.changes_attr for call in calls),
        TABLE_FREED: frees,
        WALK: walks,
        LOOKUP: any(call.looks_up for call in calls),
        WALKED_TABLE_FREED: walks and frees,
        WX_NOTED: walks and any(getattr(call, "prot", "") == "rwx" for call in (*scenario.setup, *calls)),
        BRANCH_TAKEN: bool(system.kernel.static_keys),
        BRANCH_NOT_TAKEN: bool(system.kernel.static_keys),
    }
    return frozenset(point for point, may in may_be.items() if may)


@functools.lru_cache(maxsize=1024)
def purpose(scenario: Scenario, without: tuple[str, ...] = ()) -> frozenset[str]:
    """Return the cover points that a scenario is for.

    `without` names ordering points that are left out. Then the calls do not speak for themselves: a point may be what
    something is known by.
    """
    by_its_calls = frozenset[str]() if without else _by_its_calls(scenario)
    return by_its_calls | _without_a_scheme(scenario, without)


def _by_its_calls(scenario: Scenario) -> frozenset[str]:
    geometry = scenario.geometry()
    walks = scenario.cpus_with(lambda call: call.walks)
    found = {WALK} if walks else set()
    if race(walks, scenario.cpus_with(lambda call: call.may_promote(geometry))):
        found.add(PROMOTION)
    lookups = scenario.cpus_with(lambda call: call.looks_up)
    if lookups:
        found.add(LOOKUP)
    collapses = scenario.cpus_with(lambda call: call.collapses)
    if architectures.get(scenario.arch).collapses and (race(walks, collapses) or race(lookups, collapses)):
        found.add(COLLAPSE)
    return frozenset(found)


def _without_a_scheme(scenario: Scenario, without: tuple[str, ...]) -> frozenset[str]:
    try:
        system = System(scenario, NoMitigation, "sc", without=without)
    except ScenarioError:
        # its setup needs the scheme
        return frozenset()
    points = CoverPoints(system.kernel.arch, system.booted().allocator)
    for order in islice(permutations(range(system.cpus)), ORDERS):
        execute(watch(system.machine(), points), InTurn(order))
    return points.met
