"""Random walk: at each step, each enabled agent is equally likely."""

from __future__ import annotations

from collections.abc import Sequence

from fuzzvm.machine.machine import Machine
from fuzzvm.runs.strategies import Strategy


class RandomWalk(Strategy):
    """The baseline. It switches at every other step or so, and rarely lets one CPU run far ahead."""

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        if len(enabled) == 1:
            return enabled[0]
        # randrange() is fairer by less than one in 2 ** 50, and takes three times as long
        return enabled[int(self.random.random() * len(enabled))]


STRATEGY = RandomWalk
