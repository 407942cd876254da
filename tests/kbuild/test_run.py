"""Running a program of a build: what is said of its failure, and that nothing outlives it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fuzzvm.kbuild import run as running
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.kbuild.run import run


def test_what_fails_is_said_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(KbuildError, match=r"sh fails: a\.c:1: error: no"):
        run(["sh", "-c", "echo fine; echo 'a.c:1: error: no'; exit 2"], log, 10)
    assert "fine" in log.read_text()


def test_the_compilers_error_is_said_and_not_what_only_looks_like_one(tmp_path: Path) -> None:
    lines = ["CC errors.o", "warning: x [-Werror=y]", "mm/a.c:7:1: error: 'x' undeclared", "make: *** Error 1"]
    with pytest.raises(KbuildError, match=r"sh fails: mm/a\.c:7:1: error: 'x' undeclared \("):
        run(["sh", "-c", f'printf "%s\\n" "{chr(10).join(lines)}"; exit 2'], tmp_path / "log", 10)
    with pytest.raises(KbuildError, match=r"sh fails: make: \*\*\* Error 1"):
        run(["sh", "-c", "echo fine; echo 'make: *** Error 1'; exit 2"], tmp_path / "log", 10)


def test_lines_are_passed_on(tmp_path: Path) -> None:
    heard: list[str] = []
    # the last has no end of line: it is not whole
    run(["sh", "-c", "echo one; echo two; printf three"], tmp_path / "log", 10, heard=heard.append)
    assert heard == ["one", "two"]
    with pytest.raises(KbuildError, match="has not ended"):
        run(["sleep", "4713.25"], tmp_path / "log", 0.3, heard=heard.append)


def test_what_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(KbuildError, match="has not ended"):
        run(["sh", "-c", "sleep 4711.25 & sleep 4711.25"], tmp_path / "log", 0.3)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "4711.25" not in listed


def test_what_ends_may_clean_up_and_what_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "half"
    tidy = f"trap 'rm {half}; exit' TERM; touch {half}; while :; do sleep 0.05; done"
    with pytest.raises(KbuildError, match="has not ended"):
        run(["sh", "-c", tidy], tmp_path / "log", 0.5)
    assert not half.exists()
    monkeypatch.setattr(running, "_END_SECONDS", 0.5)
    with pytest.raises(KbuildError, match="has not ended"):
        run(["sh", "-c", "trap '' TERM; sleep 4712.25 & while :; do sleep 0.05; done"], tmp_path / "log", 0.3)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "4712.25" not in listed


def test_temporary_files_go(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(KbuildError, match="sh fails"):
        run(["sh", "-c", f"mktemp > {made}; kill -KILL $$"], tmp_path / "log", 60)
    assert Path(made.read_text().strip()).parent == tmp_path / "tmp" and not (tmp_path / "tmp").exists()
