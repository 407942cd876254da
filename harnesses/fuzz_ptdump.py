"""Fuzzes the reader of dumps with Atheris: bytes of any kind give figures or a DumpError, within a second.

    python harnesses/fuzz_ptdump.py [FOLDER] [-max_total_time=60] [other options of libFuzzer]

FOLDER keeps what covers new branches; without one, it begins anew from the dumps of the model. An input that fails is
written to the current folder, and named on its command line it is tried again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fuzzvm.dump"]):
    from fuzzvm.dump import DumpError, summarise

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, Level, mk_leaf

TIMEOUT_SECONDS = 1


def seeds(folder: Path) -> None:
    """Write a dump of each architecture of the model."""
    for name in architectures.names():
        at = architectures.get(name).vmalloc_start
        rows = [
            DumpRow(at, at + 0x1000, Level.PTE, mk_leaf(1, PAGE_KERNEL)),
            DumpRow(at + 0x1000, at + 0x200000, Level.PTE, 0),
            DumpRow(at + 0x200000, at + 0x400000, Level.PMD, mk_leaf(2, PAGE_KERNEL_EXEC)),
            DumpRow(at + 0x400000, 1 << 64, Level.PGD, 0),
        ]
        (folder / name).write_text(architectures.get(name).format_dump(rows), encoding="ascii")


def main() -> None:
    """Fuzz until an input fails or libFuzzer's options say to end."""
    with tempfile.TemporaryDirectory() as folder:
        first, dump = Path(folder, "seeds"), Path(folder, "dump")
        first.mkdir()
        seeds(first)

        def one_input(data: bytes) -> None:
            dump.write_bytes(data)
            try:
                total = summarise(str(dump)).to_data()["total"]
            except DumpError:
                return
            assert 0 <= total["tlb_entries"] <= total["tlb_entries_as_pages"]

        options = [f"-timeout={TIMEOUT_SECONDS}", "-max_len=65536", *sys.argv[1:]]
        atheris.Setup([sys.argv[0], *options, str(first)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
