"""How many pairs of conflicting operations a campaign has not seen, of each target: see `fuzzvm.runs.estimate`.

A sample is a task, and not a run: a task says which pairs were in it, and only which run was the first with each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from fuzzvm.campaigns.journal import Sums
from fuzzvm.runs.estimate import undiscovered


def samples_by_target(sums: Mapping[tuple[int, str], Sums]) -> Counter[int]:
    """Return how many samples there are of each target, given what was done by target and engine."""
    samples = Counter[int]()
    for (target, _), one in sums.items():
        samples[target] += one.samples
    return samples


def undiscovered_by_target(pairs: Mapping[tuple[int, int], int], samples: Mapping[int, int]) -> dict[int, float]:
    """Return the estimate for each target that has two samples, by its number.

    `pairs` has in how many samples each pair was, by target and pair; `samples` how many there are of each target. One
    sample says nothing of what is in no sample, so that a target with fewer than two has no estimate.
    """
    times: dict[int, list[int]] = {}
    for (target, _), count in pairs.items():
        times.setdefault(target, []).append(count)
    return {target: undiscovered(times.get(target, []), count) for target, count in samples.items() if count > 1}
