"""The stand-alone fuzzer of the reader of dumps."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_a_few_thousand_inputs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "harnesses/fuzz_ptdump.py"), "-runs=3000", "-seed=1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 3000 runs" in done.stderr
    assert not list(tmp_path.iterdir())
