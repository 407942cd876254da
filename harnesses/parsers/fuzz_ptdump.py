"""Fuzzes the reader of dumps: bytes of any kind give figures or a DumpError. How to run it: frame.py."""

import tempfile
from functools import cache
from pathlib import Path

from frame import fuzz, instrumented

with instrumented(__name__, "fuzzvm.dump"):
    from fuzzvm.dump import DumpError, summarise


@cache
def scratch() -> Path:
    """Return the file that inputs are written to: the reader looks at how a file begins, and opens it again."""
    return Path(tempfile.mkdtemp(), "dump")


def one_input(data: bytes) -> None:
    """Read bytes as a dump."""
    dump = scratch()
    dump.write_bytes(data)
    try:
        total = summarise(str(dump)).to_data()["total"]
    except DumpError:
        return
    assert 0 <= total["tlb_entries"] <= total["tlb_entries_as_pages"]


if __name__ == "__main__":
    fuzz("fuzz_ptdump", one_input)
