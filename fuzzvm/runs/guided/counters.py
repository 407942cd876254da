"""Tells Atheris that an interleaving is new, by counters of its own kind.

`_reserve_counter` and `_trace_branch` are what Atheris' instrumentation calls; they are not documented. Where they
are missing or fail, what is left is Atheris' plain code coverage, and `active` says so. All counters are reserved
before fuzzing begins, so that libFuzzer knows them from the first run on. `_trace_branch` is looked up only then:
Atheris replaces it when it loads libFuzzer, and the one from before counts for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

COUNTERS = 1 << 13
"""Features that are told apart; those beyond share the counters again. A scenario has some hundred pairs."""


class FeatureCounters:
    """One counter for each feature that was ever reported."""

    def __init__(self, module: object, counters: int = COUNTERS) -> None:
        self._module = module
        self._reserved: list[int] = []
        self._counter_of: dict[Hashable, int] = {}
        reserve = getattr(module, "_reserve_counter", None)
        if callable(reserve) and callable(getattr(module, "_trace_branch", None)):
            try:
                self._reserved = [reserve() for _ in range(counters)]
            except (TypeError, RuntimeError):
                self._reserved = []

    @property
    def active(self) -> bool:
        """Whether features reach the fuzzer."""
        return bool(self._reserved)

    def report(self, features: Iterable[Hashable]) -> None:
        """Make the input that is running interesting for having these features."""
        if not self._reserved:
            return
        trace: Callable[[int], None] = self._module._trace_branch  # type: ignore[attr-defined]
        try:
            for feature in features:
                counter = self._counter_of.get(feature)
                if counter is None:
                    counter = self._reserved[len(self._counter_of) % len(self._reserved)]
                    self._counter_of[feature] = counter
                trace(counter)
        except TypeError:
            # the interface has changed: go on with code coverage
            self._reserved = []
