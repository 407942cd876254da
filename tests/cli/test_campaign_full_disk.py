"""A campaign on a disk that fills up: one line, status 2, and all that was reported is there and goes on."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clock import FOREVER, PATIENCE, wait_until

SEARCH = ("-m", "none", "-s", "pmd-promotion", "--memory", "sc")
ARGUMENTS = (*SEARCH, "--jobs", "2", "--keep-going", "--schedule-by", "even")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, where whoever runs the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "fuzzvm-test", str(disk)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount(8)")
    if mounted.returncode != 0:
        pytest.skip("may not mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def found_in(folder: Path) -> set[str]:
    if not (folder / "settings.json").exists():
        return set()
    connection = sqlite3.connect(folder / "journal.sqlite")
    files = {str(file) for (file,) in connection.execute("SELECT file FROM finding")}
    connection.close()
    return files


def resume(folder: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "fuzz", "--resume", str(folder), "--runs", "500", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, done.stderr
    connection = sqlite3.connect(folder / "journal.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return {Path(saved).name for saved in json.loads(done.stdout)["saved"]}


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    folder = small_disk / "c"
    with subprocess.Popen(
        [sys.executable, "-m", "fuzzvm", "fuzz", *ARGUMENTS, "--campaign", str(folder), "--seconds", str(FOREVER)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: found_in(folder) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        reported = found_in(folder)
        fill(small_disk)
        said, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert said == ""
    assert len(error.strip().splitlines()) == 1, error
    assert "No space left on device" in error and f"fuzzvm fuzz --resume {folder}" in error
    (small_disk / "filler").unlink()
    assert reported <= {path.name for path in (folder / "findings").iterdir()}
    assert reported <= resume(folder)


@pytest.mark.parametrize("limit", [40_000, 150_000])
def test_files_that_may_not_grow(tmp_path: Path, limit: int) -> None:
    """The same without the right to mount: files have a greatest size. The smaller one is too small for a journal."""
    folder = tmp_path / "c"
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "fuzz", *ARGUMENTS, "--campaign", str(folder), "--seconds", str(FOREVER)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    if limit == 40_000:
        assert "no campaign was begun" in done.stderr
        return
    assert f"fuzzvm fuzz --resume {folder}" in done.stderr
    there = {path.name for path in (folder / "findings").glob("*")}
    assert found_in(folder) <= there
    assert there <= resume(folder)
    assert not list((folder / "unsettled").iterdir())
