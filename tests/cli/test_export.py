"""`fuzzvm export`: what it writes where, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.litmus import run

ROOT = Path(__file__).resolve().parents[2]
REGRESSIONS = ROOT / "corpus" / "regressions"


def fuzzvm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", "export", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def race() -> Path:
    paths = sorted(REGRESSIONS.glob("none-use-after-free-read-*.toml"))
    return next(path for path in paths if 'arch = "arm64"' in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("form", "begins"), [("litmus", "AArch64 none-"), ("lkmm", "C none-"), ("promela", "/*\n")])
def test_writes_to_stdout_or_a_file(form: str, begins: str, tmp_path: Path) -> None:
    done = fuzzvm(str(race()), "--to", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begins)
    out = tmp_path / "out"
    written = fuzzvm(str(race()), "--to", form, "-o", str(out))
    assert (written.returncode, written.stdout) == (0, f"written: {out}\n")
    assert out.read_text(encoding="utf-8") == done.stdout
    if form == "litmus":
        assert run(done.stdout, "out").observation == "Sometimes"


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("static-key-tlb-conflict", ("--to", "litmus"), "tlb-conflict is no question"),
        ("config-off", ("--to", "lkmm"), "no counterpart"),
        ("none-use-after-free-read", ("--to", "promela", "--max-states", "5"), "more than 5 states"),
    ],
)
def test_refuses_with_one_line(name: str, options: tuple[str, ...], why: str) -> None:
    done = fuzzvm(str(sorted(REGRESSIONS.glob(f"{name}*.toml"))[0]), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and why in done.stderr


def test_a_mitigation_of_a_file_must_be_given(tmp_path: Path) -> None:
    scheme = tmp_path / "mine.py"
    scheme.write_text("from fuzzvm.mitigations.none import NoMitigation\n\n\nclass Mine(NoMitigation):\n    pass\n")
    case = tmp_path / "case.toml"
    case.write_text(race().read_text().replace('mitigation = "none"', f'mitigation = "{scheme}:Mine"'))
    refused = fuzzvm(str(case), "--to", "litmus")
    assert refused.returncode == 2 and "--mitigation" in refused.stderr
    assert fuzzvm(str(case), "--to", "litmus", "--mitigation", f"{scheme}:Mine").returncode == 0


@pytest.mark.always
def test_a_stress_program_is_a_new_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "stress"
    done = fuzzvm(str(race()), "--to", "stress", "-o", str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"written: {out}\n", "")
    assert {path.name for path in out.iterdir()} == {
        *("fuzzvm_stress.c", "reader.c", "Makefile", "run.sh", "schedule.toml")
    }
    assert os.access(out / "run.sh", os.X_OK) and not os.access(out / "Makefile", os.X_OK)
    module = (out / "fuzzvm_stress.c").read_text(encoding="utf-8")
    # the schedule, and the command that makes a kernel follow it
    assert "read pmd[0]" in module and "fuzzvm kernel replay schedule.toml --kernel OUT" in module
    again = fuzzvm(str(race()), "--to", "stress", "-o", str(out))
    assert (again.returncode, again.stdout) == (2, "") and "name a new folder" in again.stderr


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("none-use-after-free-read", (), "-o DIR names it"),
        ("static-key-tlb-conflict", ("-o", "OUT"), "no kernel reports tlb-conflict"),
        ("../seeds/static-key-safe", ("-o", "OUT"), "nothing goes wrong in this run"),
    ],
)
def test_what_is_no_stress_program_is_refused(name: str, options: tuple[str, ...], why: str, tmp_path: Path) -> None:
    options = tuple(str(tmp_path / one) if one == "OUT" else one for one in options)
    done = fuzzvm(str(sorted(REGRESSIONS.glob(f"{name}*.toml"))[0]), "--to", "stress", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr and not list(tmp_path.iterdir())
