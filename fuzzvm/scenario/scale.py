"""Scenarios that grow by one number, so that cost can be measured against size."""

from __future__ import annotations

from collections.abc import Callable

from fuzzvm.scenario.calls import Call, CatKernelPageTables, Vmap, VmUnmapAliases, Vunmap
from fuzzvm.scenario.scenario import Scenario


def pages(number: int) -> Scenario:
    """Return a promotion beside one walk, of tables with 2 ** number entries."""
    fanout = 2**number
    setup = (Vmap(0, fanout, "pte"), Vunmap(0, fanout))
    return _scenario("pages", number, fanout, setup, ((Vmap(0, fanout, "pmd"),), (CatKernelPageTables(),)))


def cpus(number: int) -> Scenario:
    """Return one promotion and one walk beside that many CPUs that purge lazily freed areas, under one lock."""
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2))
    programs = ((Vmap(0, 2, "pmd"),), (CatKernelPageTables(),), *((VmUnmapAliases(),),) * number)
    return _scenario("cpus", number, 2, setup, programs)


def walkers(number: int) -> Scenario:
    """Return one promotion beside that many identical walkers: twenty to thirty times the states for each."""
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2))
    return _scenario("walkers", number, 2, setup, ((Vmap(0, 2, "pmd"),), *((CatKernelPageTables(),),) * number))


def calls(number: int) -> Scenario:
    """Return one walk beside a CPU that promotes and unmaps a range that many times."""
    setup: tuple[Call, ...] = (Vmap(0, 2, "pte"), Vunmap(0, 2))
    again: tuple[Call, ...] = (Vmap(0, 2, "pmd"), Vunmap(0, 2), Vmap(0, 2, "pte"), Vunmap(0, 2))
    return _scenario("calls", number, 2, setup, (again * number, (CatKernelPageTables(),)))


KINDS: dict[str, Callable[[int], Scenario]] = {"pages": pages, "cpus": cpus, "walkers": walkers, "calls": calls}


def scale_cells(kind: str, count: int) -> list[Scenario]:
    """Return the first `count` scenarios of a kind, smallest first. Raises KeyError for a kind that there is not."""
    return [KINDS[kind](number) for number in range(1, count + 1)]


def _scenario(
    kind: str, number: int, fanout: int, setup: tuple[Call, ...], programs: tuple[tuple[Call, ...], ...]
) -> Scenario:
    return Scenario("arm64", "4K", 4, fanout, setup, programs, name=f"{kind}-{number}")
