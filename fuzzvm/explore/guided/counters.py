"""Tells Atheris that an interleaving is new, by counters of its own kind.

`_reserve_counter` and `_trace_branch` are what Atheris' instrumentation calls; they are not documented. Where they
are missing or fail, what is left is Atheris' plain code coverage, and `active` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable


class FeatureCounters:
    """One counter for each feature that was ever reported."""

    def __init__(self, module: object) -> None:
        reserve = getattr(module, "_reserve_counter", None)
        trace = getattr(module, "_trace_branch", None)
        self._reserve: Callable[[], int] | None = reserve if callable(reserve) and callable(trace) else None
        self._trace: Callable[[int], None] | None = trace if self._reserve is not None else None
        self._counters: dict[Hashable, int] = {}

    @property
    def active(self) -> bool:
        """Whether features reach the fuzzer."""
        return self._reserve is not None

    def report(self, features: Iterable[Hashable]) -> None:
        """Make the input that is running interesting for having these features."""
        if self._reserve is None or self._trace is None:
            return
        for feature in features:
            counter = self._counters.get(feature)
            try:
                if counter is None:
                    counter = self._counters[feature] = self._reserve()
                self._trace(counter)
            except (TypeError, RuntimeError, OverflowError):
                # the interface has changed or has no counters left: go on with code coverage
                self._reserve = None
                return
