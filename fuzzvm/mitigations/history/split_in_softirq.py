"""arm64 of 6.18-rc1: KFENCE changes its pages in softirqs, and the split that comes before takes a mutex.

"arm64: mm: Don't sleep in split_kernel_leaf_mapping() when in atomic context" (November 2025) returns before the mutex.
"""

from __future__ import annotations

from fuzzvm.kernel.functions import Functions
from fuzzvm.kernel.hooks import Mitigation


class SplitInSoftirq(Mitigation):
    """The split of live mappings as it came, with no exception for pages that are never part of a block."""

    name = "split-in-softirq"
    summary = "the split's mutex taken for KFENCE's pages as well (arm64, 6.18-rc1)"
    functions = Functions(splits_kernel_mappings=True, hot_add_constructs=True)
