"""The orders in which runs have accessed each place, as a tree of their beginnings; and orders that none has shown.

`draw_into` and `take_in` go through the tree element by element. They are plain Python over lists, and compiled by
numba over its arrays where the extra `fast` is there: one text, and the same orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fuzzvm.exhaustive.search import has_compiled

LEAST: Final = 1e-3
"""Weight of a CPU with which every order goes on that is known."""
COUNTED: Final = 16
"""Accesses to a place whose order is counted."""
LONGEST: Final = 48
"""Accesses to a place that a plan orders; those that follow are left to the priorities."""
COMPILED_AFTER = 1000
"""Runs of a target after which compiled code goes on: before, starting it takes longer than it saves."""
MOST_ORDERS = 100_000
"""Beginnings of orders that are kept of one target; past them all are forgotten, and only evenness is lost."""


def draw_into(
    following: Any,
    missed: Any,
    seen: Any,
    width: int,
    roots: Any,
    left: Any,
    ends: Any,
    numbers: Any,
    weights: Any,
    order: Any,
    begun: int,
) -> None:
    """Put an order for each of some places into `order`, one after the other; `ends` has where each of them ends.

    `left` has for each place and CPU how many accesses there are, and `roots` what the known beginnings hang below.
    Each access takes one of the `numbers`, from 0 to 1. The first place has its first `begun` accesses in `order`.
    `weights` is for what is worked out on the way.
    """
    at = 0
    for row in range(len(roots)):
        first = row * width
        total, ways = 0, 1.0
        for cpu in range(first, first + width):
            for count in range(1, left[cpu] + 1):
                ways = ways * (total + count) / count
            total += left[cpu]
        node = roots[row]
        while at < ends[row]:
            if at < begun:
                chosen = order[at]
            else:
                # each weighs as much as there are orders that go on with it and that no run has shown
                whole = 0.0
                for cpu in range(width):
                    weights[cpu] = 0.0
                    if left[first + cpu] > 0:
                        unseen = ways * left[first + cpu] / total
                        if node:
                            edge = node * width + cpu
                            often = 1.0 + missed[edge]
                            unseen = (unseen - seen[following[edge]]) / (often * often)
                        weights[cpu] = max(unseen, LEAST)
                        whole += weights[cpu]
                number = numbers[at] * whole
                chosen = -1
                for cpu in range(width):
                    if weights[cpu] > 0:
                        chosen = cpu
                        if number < weights[cpu]:
                            break
                        number -= weights[cpu]
            ways = ways * max(left[first + chosen], 0) / total
            left[first + chosen] -= 1
            total -= 1
            if node:
                node = following[node * width + chosen]
            order[at] = chosen
            at += 1


def take_in(
    following: Any,
    missed: Any,
    seen: Any,
    ended: Any,
    before: Any,
    width: int,
    used: int,
    last: Any,
    log: Any,
    size: int,
) -> int:
    """Add the orders of a run to the tree, and return how many nodes it has; `last` has the root for each place, or 0.

    `log` has three numbers for each of `size` accesses: the place, the CPU, and the one that was to come, or -1.
    """
    for entry in range(size):
        place, cpu, wanted = log[3 * entry], log[3 * entry + 1], log[3 * entry + 2]
        node = last[place]
        if wanted >= 0 and wanted != cpu:
            missed[node * width + wanted] += 1
        after = following[node * width + cpu]
        if not after:
            after = following[node * width + cpu] = used
            before[used] = node
            used += 1
        last[place] = after
    for place in range(len(last)):
        node = last[place]
        if node and not ended[node]:
            ended[node] = 1
            while node:
                seen[node] += 1
                node = before[node]
    return used


class OrderTree:
    """The tree of one target. A node is a number, 0 for none; `width` is one more than the highest CPU."""

    def __init__(self) -> None:
        self._numbers: Callable[[list[int]], Any] = list
        self._fractions: Callable[[list[float]], Any] = list
        self._plain: Callable[[Any], list[int]] = list
        self._draw, self._take = draw_into, take_in
        self._runs = 0
        self._width = 4
        self.clear()

    def compile(self) -> None:
        """Go on in compiled code, with the same orders as without. It takes as long as some hundred runs."""
        from fuzzvm.runs.plans import order_tree_compiled as fast

        self._numbers, self._fractions, self._plain = fast.numbers, fast.fractions, fast.plain
        self._draw, self._take = fast.draw_into, fast.take_in
        for name in ("following", "missed", "seen", "ended", "before"):
            setattr(self, f"_{name}", fast.numbers(getattr(self, f"_{name}")))

    def clear(self) -> None:
        """Forget all orders."""
        self._used, self._room = 1, 1024
        self._roots: dict[int, int] = {}
        self._following, self._missed = (self._zeros(self._room * self._width) for _ in range(2))
        self._seen, self._ended, self._before = (self._zeros(self._room) for _ in range(3))

    @property
    def full(self) -> bool:
        """Whether there are as many beginnings as are kept."""
        return self._used >= MOST_ORDERS

    def draw(
        self,
        places: Sequence[int],
        counts: Sequence[Mapping[int, int]],
        random: Callable[[], float],
        begun: Sequence[int],
    ) -> list[tuple[int, ...]]:
        """Return orders of the accesses to places, given how many each CPU has; the first one begins as `begun`."""
        ends: list[int] = []
        left: list[int] = []
        for count in counts:
            ends.append((ends[-1] if ends else 0) + min(LONGEST, sum(count.values())))
            left += [count.get(cpu, 0) for cpu in range(self._width)]
        size = ends[-1] if ends else 0
        order = self._numbers([*begun[: ends[0]], *[0] * (size - len(begun))] if begun else [0] * size)
        self._draw(
            self._following,
            self._missed,
            self._seen,
            self._width,
            self._numbers([self._roots.get(place, 0) for place in places]),
            self._numbers(left),
            self._numbers(ends),
            self._fractions([random() for _ in range(size)]),
            self._fractions([0.0] * self._width),
            order,
            len(begun),
        )
        drawn = self._plain(order)
        return [tuple(drawn[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]

    def take(self, places: Sequence[int], log: Any, size: int, cpus: int) -> None:
        """Add the orders of a run of so many CPUs in which these places were known; see `take_in`."""
        self._runs += 1
        if self._runs == COMPILED_AFTER and has_compiled():
            self.compile()
        if isinstance(log, list):
            log = self._numbers([*log, 0])
        if cpus > self._width:
            self._widen(cpus)
        if self._used + size + len(places) >= self._room:
            self._grow(2 * self._room + size)
        last = self._zeros(1 + max(places, default=0))
        for place in places:
            root = self._roots.get(place)
            if root is None:
                root = self._roots[place] = self._used
                self._used += 1
            last[place] = root
        self._used = int(
            self._take(
                self._following, self._missed, self._seen, self._ended, self._before,
                self._width, self._used, last, log, size,
            )
        )  # fmt: skip

    def _zeros(self, size: int) -> Any:
        return self._numbers([0] * size)

    def _grow(self, room: int) -> None:
        for name, width in (
            ("following", self._width),
            ("missed", self._width),
            ("seen", 1),
            ("ended", 1),
            ("before", 1),
        ):
            old = getattr(self, f"_{name}")
            new = self._zeros(room * width)
            new[: len(old)] = old
            setattr(self, f"_{name}", new)
        self._room = room

    def _widen(self, width: int) -> None:
        for name in ("following", "missed"):
            old = getattr(self, f"_{name}")
            new = self._zeros(self._room * width)
            for cpu in range(self._width):
                new[cpu::width] = old[cpu :: self._width]
            setattr(self, f"_{name}", new)
        self._width = width
