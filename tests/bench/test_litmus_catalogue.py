"""`benchmarks/litmus_catalogue.py` notices what disagrees with a shelf's kinds, and with a table of herd7's results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SB = ROOT / "corpus" / "litmus" / "SB+dmb.osh+dmb.osh.litmus"
TITLE = SB.stem


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    folder = tmp_path / "aarch64" / "tests"
    folder.mkdir(parents=True)
    (folder / SB.name).write_text(SB.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "bad.litmus").write_text("AArch64 bad\n{ pte_x=1; }\n P0 ;\n NOP ;\nexists (true)\n", encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "litmus_catalogue.py"), *arguments]
    # no herd7 of this machine: its results are not what is tested
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "", "PYTHONPATH": str(ROOT)}
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "status"), [("Forbidden", 0), ("Forbid", 0), ("Allowed", 1), ("Required", 1)])
def test_kinds(catalogue: Path, kind: str, status: int) -> None:
    (catalogue / "aarch64" / "tests" / "kinds.txt").write_text(f"{TITLE} {kind}\n", encoding="utf-8")
    got, text = run(str(catalogue), "aarch64")
    assert got == status, text
    assert ("1 DISAGREE" in text) is bool(status)
    assert "1 refused: 1 is no page-table value, as PTE(x) holds" in text


@pytest.mark.parametrize(("row", "status"), [(("Never", 3), 0), (("Never", 4), 1), (("Sometimes", 3), 1)])
def test_a_table(catalogue: Path, row: tuple[str, int], status: int) -> None:
    table = catalogue / "expected.json"
    table.write_text(
        json.dumps({"catalogue": {"aarch64": {TITLE: {"observation": row[0], "states": row[1]}}}}), encoding="utf-8"
    )
    got, text = run(str(table), str(catalogue))
    assert got == status, text
