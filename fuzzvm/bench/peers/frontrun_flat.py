"""The flat model of flat_model.py as threads, for frontrun: run by `fuzzvm bench`, prints one JSON object.

    python frontrun_flat.py dpor|random SLOTS SCHEME SECONDS

frontrun makes threads switch where shared attributes and elements are touched, and at a threading.Lock, which stands
for the model's lock. A read through an entry is a read of whether its table is freed. A flush touches nothing here.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable


class Shared:
    """What the threads share: `freed` of each table, the slots, the lock, the key's one site."""

    def __init__(self, slots: int) -> None:
        self.slots = [1] * slots
        self.freed = [0] * slots
        self.site = 0
        self.lock = threading.Lock()
        self.bug = False


def promoter(scheme: str) -> Callable[[Shared], None]:
    """Return the thread that replaces each table by a huge entry and frees it."""

    def run(shared: Shared) -> None:
        for slot in range(len(shared.slots)):
            _ = shared.slots[slot]
            shared.slots[slot] = 0
            if scheme != "none" and shared.site:
                with shared.lock:
                    pass
            shared.freed[slot] = 1
            shared.slots[slot] = 2

    return run


def walker(scheme: str) -> Callable[[Shared], None]:
    """Return the thread that reads every entry, and the table that it points to."""

    def run(shared: Shared) -> None:
        if scheme != "none":
            shared.site = 1
        with shared.lock:
            for slot in range(len(shared.slots)):
                if shared.slots[slot] == 1 and shared.freed[slot]:
                    shared.bug = True
        if scheme != "none":
            shared.site = 0

    return run


def main() -> None:
    """Explore as the arguments say, and print what came of it."""
    import frontrun

    strategy, slots, scheme, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    # no bound on preemptions: the verdict is to be about every schedule, as fuzzvm's is
    options = {"preemption_bound": None, "max_executions": None} if strategy == "dpor" else {"max_attempts": 200}
    began = time.perf_counter()
    result = frontrun.explore(
        lambda: Shared(slots),
        [promoter(scheme), walker(scheme)],
        lambda shared: not shared.bug,
        strategy=strategy,
        detect_io=False,
        reproduce_on_failure=0,
        total_timeout=seconds,
        **({"seed": 0} if strategy == "random" else {}),
        **options,
    )
    elapsed = time.perf_counter() - began
    sys.stdout.write(
        json.dumps(
            {
                "holds": result.property_holds,
                "executions": result.num_explored,
                "seconds": elapsed,
                "ended_early": elapsed >= seconds,
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
