"""Scenarios a little smaller than one: what the minimiser tries in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from fuzzvm.kernel import arch as architectures
from fuzzvm.scenario.calls import Call
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario

Renumbering = dict[int, int]
"""Which CPU of the old scenario is which of the new one; a CPU that is left out has no number."""


def size(scenario: Scenario) -> tuple[int, ...]:
    """Return how large a scenario is, most important first: CPUs, calls, calls at boot, entries, pages, levels.

    Last come the kernel's features: contiguous blocks and lazy MMU mode.
    """
    calls = [call for cpu in scenario.cpus for call in cpu]
    pages = sum(getattr(call, "nr_pages", 0) for call in (*calls, *scenario.setup))
    return (
        len(scenario.cpus),
        len(calls),
        len(scenario.setup),
        scenario.fanout,
        pages,
        scenario.levels,
        sum(getattr(call, "page", 0) for call in (*calls, *scenario.setup)),
        scenario.cont_ptes,
        scenario.lazy_mmu,
    )


def smaller_scenarios(scenario: Scenario) -> Iterator[tuple[Scenario, Renumbering]]:
    """Yield the valid scenarios that are one change smaller, the largest changes first."""
    same = {cpu: cpu for cpu in range(len(scenario.cpus))}
    for cpu in range(len(scenario.cpus)):
        kept = [other for other in same if other != cpu]
        # what raises interrupts has a number of its own, and goes by those of the CPUs
        if kept and not scenario.interrupts:
            yield from _valid(
                scenario,
                {other: number for number, other in enumerate(kept)},
                cpus=tuple(scenario.cpus[other] for other in kept),
            )
    for cpu, calls in enumerate(scenario.cpus):
        for index in range(len(calls) if len(calls) > 1 else 0):
            fewer = (*calls[:index], *calls[index + 1 :])
            yield from _valid(scenario, same, cpus=(*scenario.cpus[:cpu], fewer, *scenario.cpus[cpu + 1 :]))
    for index in range(len(scenario.setup)):
        yield from _valid(scenario, same, setup=(*scenario.setup[:index], *scenario.setup[index + 1 :]))
    # two fewer at once: mapping and unmapping a range at boot only make sense together
    for first in range(len(scenario.setup)):
        for second in range(first + 1, len(scenario.setup)):
            kept_calls = tuple(call for index, call in enumerate(scenario.setup) if index not in (first, second))
            yield from _valid(scenario, same, setup=kept_calls)
    yield from _scaled(scenario, same)
    if scenario.cont_ptes > 1:
        yield from _valid(scenario, same, cont_ptes=1)
    if scenario.lazy_mmu:
        yield from _valid(scenario, same, lazy_mmu=False)
    if scenario.levels - 1 in architectures.get(scenario.arch).levels_with(scenario.page_size):
        yield from _valid(scenario, same, levels=scenario.levels - 1)


def _scaled(scenario: Scenario, same: Renumbering) -> Iterator[tuple[Scenario, Renumbering]]:
    """Yield it with half the fan-out and with fewer pages, all numbers of pages divided alike."""
    for halvings in range(scenario.levels, 0, -1):
        divide = 1 << halvings
        setup = tuple(_divided(call, divide) for call in scenario.setup)
        cpus = tuple(tuple(_divided(call, divide) for call in calls) for calls in scenario.cpus)
        if scenario.fanout > 2:
            # a contiguous block shrinks with its table
            for cont_ptes in sorted({scenario.cont_ptes, scenario.cont_ptes // 2}, reverse=True):
                yield from _valid(
                    scenario, same, setup=setup, cpus=cpus, fanout=scenario.fanout // 2, cont_ptes=cont_ptes
                )
        yield from _valid(scenario, same, setup=setup, cpus=cpus)
    if scenario.fanout > 2:
        yield from _valid(scenario, same, fanout=scenario.fanout // 2)
    for index, call in enumerate(scenario.setup):
        if getattr(call, "nr_pages", 1) > 1:
            smaller = _with_pages(call, nr_pages=call.nr_pages // 2)  # type: ignore[attr-defined]
            yield from _valid(scenario, same, setup=(*scenario.setup[:index], smaller, *scenario.setup[index + 1 :]))


def _divided(call: Call, divide: int) -> Call:
    changes = {}
    for field in fields(call):
        value = getattr(call, field.name)
        if field.name == "nr_pages":
            changes[field.name] = max(1, value // divide)
        elif field.name in ("page", "phys_page") and value > 0:
            changes[field.name] = value // divide
    return _with_pages(call, **changes)


def _with_pages(call: Call, **changes: int) -> Call:
    return replace(call, **changes) if changes else call


def _valid(scenario: Scenario, renumbered: Renumbering, **changes: object) -> Iterator[tuple[Scenario, Renumbering]]:
    try:
        yield replace(scenario, name="", summary="", **changes), renumbered  # type: ignore[arg-type]
    except ScenarioError:
        return
