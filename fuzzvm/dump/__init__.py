"""Reads the text of kernel_page_tables as kernels print it, and says what it costs and what changed between two.

Layer: beside litmus; imports nothing of the model. Tests: tests/dump/. `summarise` and `compare` are all that callers
need; what cannot be read raises DumpError, which names the file and the line.
"""

from __future__ import annotations

from fuzzvm.dump.diff import Difference, compare
from fuzzvm.dump.errors import DumpError
from fuzzvm.dump.figures import Summary, summarise

__all__ = ["Difference", "DumpError", "Summary", "compare", "summarise"]
