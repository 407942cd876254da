"""`benchmarks/spin_cells.py` compares verdicts with Spin's, and notices where they differ."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="spin and gcc are needed to check the model"
)


@pytest.fixture(scope="module")
def spin_cells() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spin_cells", ROOT / "benchmarks" / "spin_cells.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ran(spin_cells: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> tuple[int, Any]:
    monkeypatch.setattr(sys, "argv", ["spin_cells.py", str(out), *arguments])
    return spin_cells.main(), json.loads(out.read_text(encoding="utf-8"))


def test_they_agree(spin_cells: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    schemes = ("-m", "none", "-m", "mmap-lock-always")
    status, rows = ran(spin_cells, monkeypatch, tmp_path / "out.json", "-s", "pmd-promotion", *schemes)
    assert status == 0
    assert [(row["spin"], row["agree"]) for row in rows] == [("assertion violated", True), ("safe", True)]


def test_a_model_that_is_not_fuzzvms_is_noticed(
    spin_cells: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits for the lock no longer waits."""
    promela = spin_cells.promela

    def broken(*arguments: Any) -> str:
        text: str = promela(*arguments)
        name = re.search(r"(cell\d+): word 0 of init_mm\.mmap_lock", text)
        assert name is not None
        free = re.search(rf"int {name[1]} = (\d+);", text)
        assert free is not None
        return re.sub(rf"{name[1]} = \d+;", f"{name[1]} = {free[1]};", text)

    monkeypatch.setattr(spin_cells, "promela", broken)
    arguments = ("-s", "pmd-promotion", "-m", "mmap-lock-always")
    status, rows = ran(spin_cells, monkeypatch, tmp_path / "out.json", *arguments)
    assert status == 1 and not rows[0]["agree"]
    assert "DIFFERS" in capsys.readouterr().out


def test_what_has_no_model_is_listed(spin_cells: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ("-s", "pmd-promotion", "-m", "none", "--max-states", "10")
    status, rows = ran(spin_cells, monkeypatch, tmp_path / "out.json", *arguments)
    assert status == 0 and rows[0]["refused"].startswith("more than 10 states")
