"""Every behaviour of a system: exact search, its reductions, and the shortest run that goes wrong.

    verdict      the way in: verify() and shortest_failure(); stages has the searches that a verdict is made by
    automaton    programs compiled lazily into automata
    space        states as integers, steps as tables; shared, flat and stepped are what CPUs share
    needs        what CPUs may still do, so that memory may forget the rest
    search       is there a run that goes wrong? reduced_search asks the same with partial-order reduction: reduced
                 and footprint under sc, reduced_weakly and weak_footprint under the other memory models
    shortest     the shortest such run; some_run any, where there is no room for that; progress one that never ends;
                 all_errors the shortest run of each error
    load_buffering
                 whether what memory leaves out under arm64 could matter to a verdict; early_pairs has its rules
    checkpoint   searches on disk, from which another process goes on

Others give it a `Task`, and use `verdict`, `limits` and `memory_use`; benchmarks, the export to Spin and certificates
also take the space and single searches.

Layer: above `machine`, which is all that it knows. `verify` applies it to systems.
Tests: tests/exhaustive/.
"""

from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.verdict import FailingRun, Verdict, shortest_failure, verify

__all__ = ["FailingRun", "Limits", "Verdict", "shortest_failure", "verify"]
