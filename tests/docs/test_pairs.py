"""docs/pairs.md is what `fuzzvm pairs --markdown` makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.slow
def test_the_page_is_made_by_the_command(tmp_path: Path) -> None:
    page = tmp_path / "pairs.md"
    subprocess.run([sys.executable, "-m", "fuzzvm", "pairs", "--markdown", str(page)], check=True, capture_output=True)
    assert page.read_text(encoding="utf-8") == (DOCS / "pairs.md").read_text(encoding="utf-8")
