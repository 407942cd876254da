"""Every behaviour of a system: exact search, its reductions, and the shortest run that goes wrong.

    verdict      the way in: verify() and shortest_failure()
    space        states as integers, steps as tables; shared, flat and stepped are what CPUs share
    needs        what CPUs may still do, so that memory may forget the rest
    search       is there a run that goes wrong? reduced_search asks the same with partial-order reduction: reduced
                 and footprint under sc, reduced_weakly and weak_footprint under the other memory models
    shortest     the shortest such run; some_run any, where there is no room for that; progress one that never ends;
                 all_errors the shortest run of each error
    met          what happens in some explored schedule

Tests: tests/explore/test_exhaustive.py, test_reductions.py, test_weak_reductions.py,
test_normal_form.py.
"""

from fuzzvm.explore.exhaustive.limits import Limits
from fuzzvm.explore.exhaustive.verdict import FailingRun, Verdict, shortest_failure, verify

__all__ = ["FailingRun", "Limits", "Verdict", "shortest_failure", "verify"]
