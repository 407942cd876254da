"""Runs to the first bug: kept as they come, taken up again, and judged by the rule that was set."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.bench import first_bug, planted
from fuzzvm.bench.first_bug import Case, cases, failing, first_failing_run, known, percentile
from fuzzvm.bench.records import Records, RecordsError
from tests.clock import PATIENCE, wait_until
from tests.support import heed_sigint


def quick(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fuzzvm", "bench", "--quick", "--only", "first-bug", "--out", str(out), "--json"]
    return subprocess.Popen(
        [*command, "-j", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_sigint
    )


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_the_next_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "first-bug.jsonl"
    with quick(tmp_path) as running:
        wait_until(lambda: len(lines_of(path)) >= 4 or running.poll() is not None)
        running.send_signal(signal.SIGINT)
        out, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, errors
    data = json.loads(out)["benchmarks"]["first-bug"]
    assert data["interrupted"]
    kept = lines_of(path)
    assert sum(row["seeds"] for row in data["rows"]) == len(kept)
    # a line that was being written when it was killed
    with path.open("a", encoding="utf-8") as file:
        file.write('{"bug": "no')
    with quick(tmp_path) as again:
        out, errors = again.communicate(timeout=PATIENCE)
    assert (again.returncode, errors) == (0, "")
    data = json.loads(out)["benchmarks"]["first-bug"]
    assert not data["interrupted"]
    assert {row["seeds"] for row in data["rows"]} == {first_bug.QUICK_SEEDS}
    after = lines_of(path)
    assert after[: len(kept)] == kept
    tasks = [(record["bug"], record["engine"], record["seed"]) for record in map(json.loads, after)]
    assert len(set(tasks)) == len(tasks) == sum(row["seeds"] for row in data["rows"])


def test_records_of_another_source_are_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    Records(path).add({"seed": 1})
    assert Records(path).known == [{"seed": 1}]
    path.write_text(path.read_text(encoding="utf-8") + '{"seed": 2, "source": "other"}\n', encoding="utf-8")
    again = Records(path)
    assert (again.known, again.others) == ([{"seed": 1}], 1)
    assert len(lines_of(path)) == 2


def test_a_record_of_more_runs_serves_for_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path / "records.jsonl")
    for seed, found_at in enumerate((7, first_bug.QUICK_LIMIT + 1, None)):
        records.add({"bug": "Deep3B", "engine": "pct", "limit": 1000, "seed": seed, "run": found_at})
    records.add({"bug": "Deep3B", "engine": "pct", "limit": 5, "seed": 3, "run": None})
    monkeypatch.setattr(first_bug, "cases", lambda *, quick, bugs: [Case("Deep3B", "pct", first_bug.QUICK_LIMIT)])
    asked = []
    monkeypatch.setattr(first_bug, "_measured", lambda todo, jobs: asked.extend(todo) or ())
    (row,) = first_bug.run(quick=True, note=lambda text: None, records=tmp_path / "records.jsonl").rows
    assert [seed for _, seed in asked] == [3, 4]
    assert (row["seeds"], row["missed"]) == (3, 2)


@pytest.mark.parametrize("line", ["x", "[]", "{}", '"text"'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(RecordsError, match=r"records.jsonl:1: no record"):
        Records(path)


@pytest.mark.slow
def test_what_counts_as_deep() -> None:
    assert all(known(bug.name).deep for bug in planted.DEEP)
    # four constraints, and hit in every seventh run: no engine can be three times as fast
    assert (known("Drawn4A").depth, known("Drawn4A").deep) == ((4, 4), False)
    assert not known("Window2B").deep
    assert known("none").depth == (2, 2)
    assert not any(known(name).deep for name in failing())
    assert sum(known(bug.name).deep for bug in planted.PLANTED) >= 10


def test_depth_sets_the_limit() -> None:
    limits = {case.bug: case.limit for case in cases(quick=False)}
    assert (limits["Drawn2A"], limits["none"]) == (first_bug.LIMIT, first_bug.LIMIT)
    assert limits["Deep3A"] == first_bug.DEEP_LIMIT
    assert set(failing()) <= set(limits)


def test_the_same_seed_finds_it_in_the_same_run() -> None:
    case = Case("Window3A", "surw", 500)
    assert first_failing_run(case, 3) == first_failing_run(case, 3)
    assert first_failing_run(Case("Deep5A", "random", 3), 0) is None


def test_percentiles() -> None:
    assert [percentile(list(range(1, 101)), percent) for percent in (50, 95)] == [50, 95]
    assert percentile([7], 95) == 7
