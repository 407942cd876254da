"""`fuzzvm fuzz --jobs`, `--campaign`, `--resume` and `fuzzvm status`: what is seen, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import patient
from tests.campaigns.killing import children, wait_until_gone, workers
from tests.cli.running import fuzzvm
from tests.clock import FOREVER, PATIENCE, wait_until
from tests.support import heed_sigint

SMALL = ("-s", "pmd-promotion", "--memory", "sc")
SCHEME = """
import os, random, signal, time
from fuzzvm.kernel.hooks import Mitigation
class Mine(Mitigation):
    name = "mine"
    count = 0
    def before_free(self, k, level, token):
"""


def answer(*arguments: str, cwd: Path, status: int = 0) -> dict[str, Any]:
    done = fuzzvm(*arguments, "--json", cwd=cwd)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert done.stderr == ""
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def scheme(folder: Path, body: str) -> tuple[str, ...]:
    (folder / "mine.py").write_text(SCHEME + "".join(f"        {line}\n" for line in body.splitlines()))
    return ("fuzz", "-m", "mine.py:Mine", *SMALL, "--jobs", "2", "--campaign", "c", "--runs", "3000")


@contextlib.contextmanager
def running(
    folder: Path, *arguments: str, program: Sequence[str] = ("-m", "fuzzvm")
) -> Iterator[subprocess.Popen[str]]:
    """A campaign that runs and has done some of its runs."""
    with subprocess.Popen(
        [sys.executable, *program, "fuzz", *arguments, "--campaign", "c", "--seconds", str(FOREVER)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_sigint,
    ) as process:
        try:
            wait_until(lambda: runs_of(folder / "c") or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def runs_of(folder: Path) -> int:
    if not (folder / "settings.json").exists():
        return 0
    connection = sqlite3.connect(folder / "journal.sqlite")
    ((runs,),) = connection.execute("SELECT coalesce(sum(runs), 0) FROM done").fetchall()
    connection.close()
    return int(runs)


def test_a_campaign_finds_saves_and_says_how_it_stands(tmp_path: Path) -> None:
    arguments = ("-m", "none", "-m", "mmap-lock-always", *SMALL, "--jobs", "2", "--campaign", "c", "--runs", "3000")
    arguments += ("--corpus", "mine")
    data = answer("fuzz", *arguments, cwd=tmp_path, status=1)
    assert data["verdict"] == "bug"
    assert data["finished"] and not data["running"] and not data["interrupted"]
    verdicts = {search["mitigation"]: (search["verdict"], search["as_expected"]) for search in data["searches"]}
    assert verdicts == {"none": ("bug", True), "mmap-lock-always": ("safe", True)}
    for path in data["saved"]:
        assert fuzzvm("replay", path, cwd=tmp_path).returncode == 0
    assert data["coverage"] > 0 and data["runs"] == 3000
    names = {Path(path).name for path in data["saved"]}
    assert names == {path.name for path in (tmp_path / "c" / "findings").iterdir()}
    assert names == {path.name for path in (tmp_path / "mine").iterdir()}
    assert fuzzvm("replay", "c/corpus", cwd=tmp_path).returncode == 0
    again = answer("status", "c", cwd=tmp_path)
    assert again["saved"] == data["saved"] and again["runs"] == 3000
    text = fuzzvm("status", "c", cwd=tmp_path).stdout
    assert "c: finished" in text and "fuzzvm explain c/findings/none-" in text
    done = fuzzvm("status", "c", "--html", "c.html", cwd=tmp_path)
    assert done.returncode == 0 and "c: finished" in done.stdout
    page = (tmp_path / "c.html").read_text()
    assert names <= {Path(found).name for found in re.findall(r"c/findings/[^<]*", page)} and "polyline" in page
    assert f"estimated {again['pairs_undiscovered']:.0f} more were not seen" in page
    # nothing is left to do, and nothing is done twice
    # and a folder outside is named each time
    resumed = ("fuzz", "--resume", "c", "--corpus", "mine")
    assert answer(*resumed, cwd=tmp_path, status=1)["runs"] == 3000
    assert answer(*resumed, "--runs", "500", cwd=tmp_path, status=1)["runs"] == 3500


def test_the_old_name_of_schedule_by_is_taken_and_not_shown(tmp_path: Path) -> None:
    campaign = ("fuzz", "-m", "none", *SMALL, "--runs", "500", "--jobs", "1", "--campaign", "c")
    answer(*campaign, "--split", "even", cwd=tmp_path, status=1)
    assert json.loads((tmp_path / "c" / "settings.json").read_text())["split"] == "even"
    text = fuzzvm("fuzz", "--help", cwd=tmp_path).stdout
    assert "--schedule-by" in text and "--split" not in text


def test_scheduling_evenly_gives_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    arguments = ("-m", "none", *SMALL, "--schedule-by", "even", "--runs", "2500", "--seed", "3")

    def covered(jobs: str) -> tuple[Any, ...]:
        data = answer("fuzz", *arguments, "--jobs", jobs, "--campaign", jobs, cwd=tmp_path, status=1)
        connection = sqlite3.connect(tmp_path / jobs / "journal.sqlite")
        pairs = connection.execute("SELECT * FROM pair").fetchall()
        ways = connection.execute("SELECT error, failed, freed FROM failing ORDER BY 1, 2, 3").fetchall()
        connection.close()
        return data["runs"], data["steps"], pairs, ways

    assert covered("1") == covered("3")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_soon_and_leaves_what_can_be_resumed(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "-m", "none", *SMALL, "--jobs", "2", "--keep-going") as process:
        if number == signal.SIGINT:
            assert answer("status", "c", cwd=tmp_path)["running"]
            error = one_line_error(fuzzvm("fuzz", "--resume", "c", cwd=tmp_path))
            assert "another process runs this campaign" in error
        inner = workers(process.pid)
        process.send_signal(number)
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "fuzzvm fuzz --resume c" in error
        wait_until_gone(inner)
    if number != signal.SIGINT:
        return
    stopped = answer("status", "c", cwd=tmp_path)
    assert not stopped["running"] and not stopped["finished"]
    more = answer("fuzz", "--resume", "c", "--runs", "1000", cwd=tmp_path, status=1)
    assert more["runs"] >= stopped["runs"] + 1000
    assert more["open_tasks"] == 0 and not more["unsettled"]
    assert set(stopped["saved"]) <= set(more["saved"])


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    arguments = ("-m", "mmap-lock-always", *SMALL, "--jobs", "2")
    with running(tmp_path, *arguments, program=(str(patient.SCRIPT), str(heard))) as process:
        # stopped, the workers cannot end their tasks, and the parent waits for them
        inner = children(process.pid)
        for worker in inner:
            os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        wait_until(heard.exists)
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=PATIENCE)
        assert said == ""
        assert error.split("\n\n") == ["interrupted: fuzzvm fuzz --resume c goes on", "fuzzvm: interrupted\n"]
        assert process.returncode == 130
        wait_until_gone(inner)


def test_the_parent_killed_takes_the_workers_along(tmp_path: Path) -> None:
    with running(tmp_path, "-m", "mmap-lock-always", *SMALL, "--jobs", "2") as process:
        inner = workers(process.pid)
        assert len(inner) == 2
        process.kill()
        wait_until_gone(inner)
    assert "not running" in fuzzvm("status", "c", cwd=tmp_path).stdout


def test_a_hook_that_never_yields_is_named_by_file_and_line(tmp_path: Path) -> None:
    looping = scheme(tmp_path, "while True:\n    self.count += 1\nyield from ()")
    error = one_line_error(fuzzvm(*looping, "--hook-seconds", "1", cwd=tmp_path))
    assert "mine.py:9: before_free has neither yielded nor returned for 1 seconds" in error or "mine.py:8:" in error


def test_a_hook_that_is_stuck_in_c_is_named_as_well(tmp_path: Path) -> None:
    stuck = scheme(tmp_path, "import itertools, collections\ncollections.deque(itertools.count(), 0)\nyield from ()")
    error = one_line_error(fuzzvm(*stuck, "--hook-seconds", "0.3", cwd=tmp_path))
    assert "mine.py:9: before_free has neither yielded nor returned" in error


def test_a_task_that_kills_its_worker_each_time_ends_the_campaign(tmp_path: Path) -> None:
    deadly = scheme(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)\nyield from ()")
    error = one_line_error(fuzzvm(*deadly, cwd=tmp_path))
    assert "has cost 10 workers: 10 times killed by SIGKILL" in error
    assert "mine.py:Mine in pmd-promotion, sc" in error
    assert not answer("status", "c", cwd=tmp_path)["finished"]


@pytest.mark.parametrize(
    "body",
    [
        # among many, so that hardly ever all replays come to the same by chance
        "for _ in range(random.randrange(50)):\n    yield Fence(Barrier.ISB)\nyield from ()",
        "Mine.count += 1\nfor _ in range(Mine.count % 3):\n    yield Fence(Barrier.ISB)\nyield from ()",
    ],
)
def test_what_depends_on_more_than_the_schedule_is_told_and_kept(tmp_path: Path, body: str) -> None:
    arguments = scheme(tmp_path, "from fuzzvm.machine.ops import Barrier, Fence\n" + body)
    error = one_line_error(fuzzvm(*arguments, cwd=tmp_path))
    assert "mine.py:Mine or what it imports depends on more than the schedule" in error
    (case,) = (tmp_path / "c" / "evidence").glob("*.toml")
    assert case.with_suffix(".txt").exists()
    assert not list((tmp_path / "c" / "findings").glob("*"))


def test_a_campaign_goes_on_as_it_was_begun_or_not_at_all(tmp_path: Path) -> None:
    arguments = scheme(tmp_path, "yield from ()")
    answer(*arguments, cwd=tmp_path, status=1)
    assert "there is a campaign already" in one_line_error(fuzzvm(*arguments, cwd=tmp_path))
    assert "no --seed with it" in one_line_error(fuzzvm("fuzz", "--resume", "c", "--seed", "3", cwd=tmp_path))
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# another\n")
    error = one_line_error(fuzzvm("fuzz", "--resume", "c", "-m", "mine.py:Mine", cwd=tmp_path))
    assert "begun with another mitigation mine.py:Mine" in error
    # who only looks runs nobody's code
    (tmp_path / "mine.py").unlink()
    assert answer("status", "c", cwd=tmp_path)["searches"][0]["mitigation"] == "mine.py:Mine"
    for command in (("fuzz", "--resume", "nowhere"), ("status", "nowhere")):
        assert "no campaign there" in one_line_error(fuzzvm(*command, cwd=tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    error = one_line_error(fuzzvm("fuzz", "--campaign", "other", cwd=tmp_path))
    assert "not empty, and no campaign" in error
    for name in ("--schedule-by", "--split"):
        error = one_line_error(fuzzvm("fuzz", name, "even", cwd=tmp_path))
        assert "--schedule-by is for campaigns" in error
    (tmp_path / "c" / "settings.json").write_text('{"format": 1}')
    assert "format 1 is not one that this fuzzvm reads" in one_line_error(fuzzvm("status", "c", cwd=tmp_path))


@pytest.mark.parametrize(
    ("way", "told"),
    [("print('a line')", ""), ("os._exit(0)", "status 0 in the middle of its work, perhaps by os._exit in")],
)
def test_what_a_hook_does_in_the_process_that_checks(tmp_path: Path, way: str, told: str) -> None:
    # that one has a hash seed of its own
    arguments = scheme(tmp_path, f"if 'PYTHONHASHSEED' in os.environ:\n    {way}\nyield from ()")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    if told:
        assert told in next(tmp_path.glob("c/evidence/*.txt")).read_text()
        assert "mine.py:Mine or what it imports depends on more than the schedule" in one_line_error(done)
    else:
        assert (done.returncode, done.stderr) == (1, ""), done.stderr
        assert list((tmp_path / "c" / "findings").glob("*"))
