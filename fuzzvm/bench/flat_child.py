"""Verifies the flat model in a process of its own, so that its start and its memory can be measured.

    python -m fuzzvm.bench.flat_child SLOTS WALKERS SCHEME default|every

`default` does what `fuzzvm verify` does; `every` visits every state, with no reduction. Prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import sys
import time

from fuzzvm.bench.flat_model import FlatTask
from fuzzvm.exhaustive import Limits, verify
from fuzzvm.exhaustive.memory_use import resident
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space


def main() -> None:
    """Run what the arguments say."""
    slots, walkers, scheme, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    system = FlatTask(slots, walkers, scheme)
    gc.disable()
    before = resident()
    began = time.perf_counter()
    if mode == "default":
        verdict = verify(system)
        seconds = time.perf_counter() - began
        states, transitions, safe = verdict.states, verdict.transitions, verdict.verdict == "safe"
        memory = 0
    else:
        space = Space(system)
        found = search(space, Limits())
        seconds = time.perf_counter() - began
        states, transitions, safe = found.states, found.transitions, not found.findings
        # the tables are still there; the set of visited states is gone, and its peak is what counts
        memory = _peak() - before
    figures = {"states": states, "transitions": transitions, "safe": safe, "seconds": seconds, "bytes": memory}
    sys.stdout.write(json.dumps(figures) + "\n")


def _peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
