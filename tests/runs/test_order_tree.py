"""The tree of orders: with and without compiled code the same orders."""

from __future__ import annotations

from random import Random

import pytest

from fuzzvm.exhaustive.search import has_compiled
from fuzzvm.runs.plans.order_tree import COUNTED, OrderTree


@pytest.mark.skipif(not has_compiled(), reason="the extra `fast` is not installed")
def test_compiled_code_draws_the_same_orders() -> None:
    random, plain, compiled = Random(1), OrderTree(), OrderTree()
    compiled.compile()
    for cpus in (3, 7):
        for _ in range(200):
            places = random.sample(range(4), random.randrange(1, 5))
            counts = [{cpu: random.randrange(1, 4) for cpu in range(random.randrange(1, cpus + 1))} for _ in places]
            begun = tuple(counts[0])[: random.randrange(3)]
            log: list[int] = []
            for tree in (plain, compiled):
                tree.take(places, [], 0, cpus)
            seed = random.random()
            drawn = [tree.draw(places, counts, Random(seed).random, begun) for tree in (plain, compiled)]
            assert drawn[0] == drawn[1]
            assert drawn[0][0][: len(begun)] == begun
            for place, count, order in zip(places, counts, drawn[0], strict=True):
                assert sorted(order) == sorted(cpu for cpu, number in count.items() for _ in range(number))
                for cpu in order[:COUNTED]:
                    log += [place, cpu, random.randrange(-1, cpus)]
            for tree in (plain, compiled):
                tree.take(places, list(log), len(log) // 3, cpus)
