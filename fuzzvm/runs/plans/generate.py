"""Hypothesis strategies for plans and scenarios, which shrink towards few context switches and small scenarios."""

from __future__ import annotations

from hypothesis import strategies as st

from fuzzvm.kernel import arch as architectures
from fuzzvm.runs.plans.orders import Bytes, Orders
from fuzzvm.runs.plans.plan import Plan
from fuzzvm.scenario.calls import Call, CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario

PLAN = st.binary(min_size=256, max_size=256)
"""What a plan is drawn from: one choice of Hypothesis, as each costs as much as many steps of a run."""


PLANS = st.binary(min_size=16, max_size=16)
"""A seed that the plans of several runs are drawn from, where none of them is to shrink."""


def plans(orders: Orders) -> st.SearchStrategy[Plan]:
    """Return a strategy for plans, by what is known of their target when they are drawn.

    Zeros are simpler: a plan of zeros orders no places, and has the lowest CPU run as far as it can.
    """
    return PLAN.map(lambda data: orders.draw(Bytes(data)))


@st.composite
def scenarios(draw: st.DrawFn, max_mappers: int = 2, max_walkers: int = 2) -> Scenario:
    """Return a strategy for scenarios in which each CPU that maps has a range of its own, as vmalloc sees to.

    A mapping CPU maps and unmaps its range a few times, with any largest entry; it begins with tables left by an
    earlier mapping, or without. The other CPUs walk. Where the architecture has contiguous blocks, a block may be two
    pages.
    """
    name = draw(st.sampled_from(architectures.names()))
    arch = architectures.get(name)
    levels = draw(st.sampled_from(arch.levels))
    fanout = draw(st.sampled_from([2, 4]))
    mappers = draw(st.integers(1, max_mappers))
    # one PUD entry's worth of pages each, or one PMD entry's where there is no room for more
    pages = fanout ** (2 if fanout ** (levels - 2) >= mappers else 1)
    setup: list[Call] = []
    cpus: list[tuple[Call, ...]] = []
    for cpu in range(mappers):
        first = cpu * pages
        if draw(st.booleans()):
            setup += [Vmap(first, pages, "pte"), Vunmap(first, pages)]
        calls: list[Call] = []
        for _ in range(draw(st.integers(1, 3))):
            shift = draw(st.sampled_from(["pmd", "pud", "pte", "contpte"]))
            prot = draw(st.sampled_from(["rw", "rwx"]))
            nr_pages = draw(st.sampled_from(sorted({pages, fanout, 1}, reverse=True)))
            calls.append(Vmap(first, nr_pages, shift, prot))
            if draw(st.booleans()) or len(calls) > 1:
                calls.append(Vunmap(first, nr_pages))
            else:
                break
        cpus.append(tuple(calls))
    walk = st.sampled_from([CatKernelPageTables(), CheckWxPages()])
    for _ in range(draw(st.integers(0, max_walkers))):
        cpus.append(tuple(draw(st.lists(walk, min_size=1, max_size=2))))
    cont_ptes = draw(st.sampled_from([0, 2])) if arch.has_contiguous_blocks and fanout > 2 else 0
    lazy_mmu = draw(st.booleans())
    return Scenario(name, "4K", levels, fanout, tuple(setup), tuple(cpus), cont_ptes=cont_ptes, lazy_mmu=lazy_mmu)
