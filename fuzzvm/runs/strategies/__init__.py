"""Strategies: one file each. A strategy makes the choices of a run and knows nothing of how runs are executed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random

from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine


class Strategy(ABC):
    """Makes choices, run after run. All its randomness comes from `random`, which makes a campaign repeatable."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def begin(self, target: int, cpus: int) -> None:  # noqa: B027 - not every strategy plans ahead
        """Start a run of `cpus` CPUs. `target` numbers what is run, for what a strategy learns from run to run."""

    @abstractmethod
    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        """Return which of the enabled agents steps."""

    def value(self, ways: int) -> int:
        """Return which way a step takes: what sc would do in half of the cases, else any, each equally likely."""
        return 0 if self.random.random() < 0.5 else self.random.randrange(ways)

    def end(self, execution: Execution) -> None:  # noqa: B027 - not every strategy learns
        """End the run that `begin` started."""
