"""fuzzvm.dump as a layer: what it stands on, and how layouts are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fuzzvm
from fuzzvm.dump import layouts, summarise

TOY = """
from fuzzvm.dump.entry import Entry, Kind, Level
from fuzzvm.dump.layouts import Layout

class Toy(Layout):
    name = architecture = "toy"
    page_sizes = (4096,)

    def parse(self, words):
        return Entry(Level.PTE, Kind.PAGE, writable=True) if words == ["toy"] else None

    def complete(self, words):
        return True

LAYOUT = Toy()
"""


def test_it_stands_on_the_standard_library_alone() -> None:
    """-S: no site-packages."""
    code = (
        f"import sys\nsys.path.insert(0, {str(Path(fuzzvm.__file__).parents[1])!r})\n"
        "import fuzzvm.dump, fuzzvm.dump.plot\nfuzzvm.dump.layouts.layouts()\n"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('fuzzvm.')})"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == ["dump", "files"]


def test_a_layout_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "dump").write_text("0x0000000000001000-0x0000000000003000           8K toy\n")
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path)])
    layouts.layouts.cache_clear()
    try:
        summary = summarise(str(tmp_path / "dump"))
    finally:
        layouts.layouts.cache_clear()
        sys.modules.pop("fuzzvm.dump.layouts.toy", None)
    assert (summary.layout.name, summary.total.mapped, summary.total.tlb_entries) == ("toy", 8192, 2)
