"""How much runs have not shown yet: an estimate from what few of them have shown.

Boehme ("STADS: Software Testing as Species Discovery", TOSEM 2018) takes what a run of a fuzzer shows for species in a
sample of an area, and so the estimators of ecology apply. This is Chao2 in the form that is corrected for bias (Chao,
"Estimating the population size for capture-recapture data with unequal catchability", Biometrics 1987): species that
one sample has, and that two have, say how many no sample has.
"""

from __future__ import annotations

from collections.abc import Iterable


def undiscovered(times: Iterable[int], samples: int) -> float:
    """Estimate how many species there are that no sample has, given in how many samples each of the others was."""
    once = twice = 0
    for count in times:
        once += count == 1
        twice += count == 2
    if samples == 0:
        return 0.0
    return once * (once - 1) / (2 * (twice + 1)) * (samples - 1) / samples
