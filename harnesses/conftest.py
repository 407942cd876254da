"""Hypothesis profiles of the harnesses: HYPOTHESIS_PROFILE=ci, dev (the default) or fuzz.

`ci` does the same runs every time, within a minute on two cores. `dev` draws new ones each time and remembers what
failed. `fuzz` is for hours.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# the minimiser of fuzzvm.runs shrinks a failing run better: it knows what a context switch is
COMMON = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)

settings.register_profile("ci", COMMON, max_examples=40, stateful_step_count=16, derandomize=True, database=None)
settings.register_profile("dev", COMMON, max_examples=40, stateful_step_count=16)
settings.register_profile("fuzz", COMMON, max_examples=20_000, stateful_step_count=30)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
