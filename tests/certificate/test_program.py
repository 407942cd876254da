"""fuzzvm.certificate.program: `fuzzvm-check` ends with one line and its status, whatever it is given."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import fuzzvm.certificate
from fuzzvm.certificate.program import run
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.mitigations import registry
from fuzzvm.scenario import own
from fuzzvm.verify import certify
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell
from tests.certificate.forging import MAGIC, Parts, certificate, forged
from tests.clock import PATIENCE

MAX_LINES = 1000
CELL = ("config-off", "pmd-promotion", "arm64")


def checked(path: Path, capfd: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Return the exit status of a check, and the line that it prints."""
    status = run([str(path), *options])
    out, err = capfd.readouterr()
    said = err if status else out
    assert said.count("\n") == 1 and not (out if status else err)
    return status, said


def test_it_is_a_small_program() -> None:
    folder = Path(fuzzvm.certificate.__file__).parent
    assert sum(len(path.read_text().splitlines()) for path in folder.glob("*.py")) <= MAX_LINES


def test_it_loads_no_search() -> None:
    code = (
        "import sys, fuzzvm.certificate.program; "
        "assert not any(name.startswith(('fuzzvm.exhaustive', 'fuzzvm.verify', 'fuzzvm.cli')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_accepted_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(certificate(*CELL))
    command = [sys.executable, "-c", "from fuzzvm.certificate.start import main; main()", "file"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "file: accepted: config-off, pmd-promotion, arm64: safe, 182 states\n"


def test_rejected_and_not_to_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"

    def change(parts: Parts) -> None:
        parts.columns[2][0] += 1

    path.write_bytes(forged(certificate(*CELL), change))
    assert checked(path, capfd)[0] == 1
    path.write_bytes(certificate(*CELL)[:-1])
    assert checked(path, capfd) == (2, f"{path}: cannot be checked: cut off\n")
    assert run([]) == 2


def test_a_header_cannot_write_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def change(parts: Parts) -> None:
        parts.header["mitigation"] = "\x1b[2Jno\nsuch"

    path = tmp_path / "file"
    path.write_bytes(forged(certificate(*CELL), change))
    status, line = checked(path, capfd)
    assert status == 2
    assert "\x1b" not in line


def test_another_version_of_the_model_is_another_task(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    packed = certificate(*CELL)
    parts = Parts.of(packed)
    parts.header["task"] = "0" * 64
    # as it is, without a digest that fits
    columns = zlib.decompress(packed.removeprefix(MAGIC)).partition(b"\n")[2]
    path.write_bytes(MAGIC + zlib.compress(json.dumps(parts.header).encode() + b"\n" + columns))
    assert checked(path, capfd) == (
        1,
        f"{path}: rejected: made for another task: the scenario, the scheme, the memory or the model's code differs\n",
    )


def test_a_scheme_of_ones_own_runs_only_where_it_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = registry.get("mmap-lock-always")
    scheme = tmp_path / "mine.py"
    text = f"from {base.__module__} import {base.__name__}\n\n\nclass Mine({base.__name__}):\n    name = 'mine'\n"
    scheme.write_text(text)
    named = f"{scheme}:Mine"
    cell = Cell(named, own.get("pmd-promotion"), "sc")
    path = tmp_path / "file"
    path.write_bytes(certify.certify(cell, verify_cell(cell, Bounds(Limits())).verdict, Limits()).content)
    status, line = checked(path, capfd)
    assert status == 2
    assert "--mitigation" in line
    assert checked(path, capfd, "-m", named)[0] == 0
    scheme.write_text(text + "# another\n")
    assert checked(path, capfd, "-m", named)[0] == 1
    scheme.write_text("raise OSError('no')\n")
    assert checked(path, capfd, "-m", named)[0] == 2


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_the_certificate_of_a_bug_is_its_run(memory: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    bug = certificate("none", "pmd-promotion", memory)
    path.write_bytes(bug)
    status, line = checked(path, capfd)
    assert status == 0
    assert "use-after-free-read in ptdump_pte_entry" in line
    for key, value in (
        ("schedule", "0*10 1*5 0"),
        ("schedule", ""),
        ("schedule", Parts.of(bug).header["schedule"] + " 0"),
        ("schedule", Parts.of(bug).header["schedule"] + ".1"),
        ("schedule", "7"),
        ("error", "double-free"),
        ("function", "elsewhere"),
        ("mitigation", "mmap-lock-always"),
    ):

        def change(parts: Parts, key: str = key, value: str = value) -> None:
            parts.header[key] = value

        path.write_bytes(forged(bug, change))
        assert checked(path, capfd)[0] == 1, (key, value)
