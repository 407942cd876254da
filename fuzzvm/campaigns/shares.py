"""Which task is next: what is searched and by which engine gets CPU time by what that has paid lately.

Time is divided twice in the same way, over the targets and over the engines. Half of it goes to all alike, half in
proportion to what each has brought per CPU second in its last tasks: new pairs of interleaving coverage, and findings,
each of which counts as many. As long as nothing pays, all get the same; what stops paying falls back to its part of
the first half, and so is never given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

FINDING = 100
"""Pairs that a new way to fail counts as."""
LATELY = 20
"""Tasks of one choice that count."""
FIRST_GUESS = 0.5
"""CPU seconds that a task is taken to need before one has ended."""

Choice = TypeVar("Choice", bound=Hashable)


class _Account:
    def __init__(self) -> None:
        self.recent: deque[tuple[float, float]] = deque(maxlen=LATELY)
        self.used = 0.0
        """CPU seconds, each divided by the share that it was given at the time: who has least of it is next."""

    @property
    def rate(self) -> float:
        paid, seconds = map(sum, zip(*self.recent, strict=True)) if self.recent else (0.0, 0.0)
        return paid / max(seconds, 1e-3)

    @property
    def seconds(self) -> float:
        """CPU seconds that a task needs."""
        return sum(seconds for _, seconds in self.recent) / len(self.recent) if self.recent else FIRST_GUESS


class TimeShares(Generic[Choice]):
    """Divides CPU time among choices. Deterministic in what it is told, in that order."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._accounts = {choice: _Account() for choice in choices}

    def shares(self) -> dict[Choice, float]:
        """Return the share of each choice at present; they add up to 1."""
        rates = {choice: account.rate for choice, account in self._accounts.items()}
        total = sum(rates.values())
        even = 1 / len(rates)
        return {choice: (even + (rate / total if total else even)) / 2 for choice, rate in rates.items()}

    def next(self) -> Choice:
        """Return what is due, and charge it with the time that a task of it takes."""
        choice = min(self._accounts, key=lambda one: self._accounts[one].used)
        account = self._accounts[choice]
        account.used += account.seconds / self.shares()[choice]
        return choice

    def ended(self, choice: Choice, paid: float, cpu_seconds: float) -> None:
        """Note what a task has brought, and what it took."""
        if choice in self._accounts:
            self._accounts[choice].recent.append((paid, cpu_seconds))

    def drop(self, choice: Choice) -> None:
        """Take a choice out for good."""
        self._accounts.pop(choice, None)

    def __bool__(self) -> bool:
        return bool(self._accounts)
