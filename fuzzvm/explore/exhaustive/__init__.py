"""Every behaviour of a system: exact search, its reductions, and the shortest run that goes wrong.

    verdict      the way in: verify() and shortest_failure()
    space        states as integers, steps as tables; shared, flat and stepped are what CPUs share
    search       is there a run that goes wrong? reduced asks the same with partial-order reduction
    shortest     the shortest such run; some_run any, where there is no room for that; progress one that never ends

Tests: tests/explore/test_exhaustive.py, test_reductions.py.
"""

from fuzzvm.explore.exhaustive.limits import Limits
from fuzzvm.explore.exhaustive.verdict import Verdict, shortest_failure, verify

__all__ = ["Limits", "Verdict", "shortest_failure", "verify"]
