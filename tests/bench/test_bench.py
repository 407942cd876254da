"""`fuzzvm bench`, in a subprocess, and the parts that need no measuring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.bench import plots, suite
from fuzzvm.bench.first_bug import cases, failing
from fuzzvm.bench.result import Result, WantedRatio
from fuzzvm.bench.timing import interleaved, median_ratio
from tests.clock import PATIENCE


def bench(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) if path is None else {**os.environ, "PATH": path}
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment,
    )


def test_json_is_one_object(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "stepping", "--only", "scaling", "--out", str(tmp_path / "new"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert list(data["benchmarks"]) == ["stepping", "scaling"]
    for row in data["benchmarks"]["stepping"]["rows"]:
        assert row["ratio"] == pytest.approx(row["operations_a_second"] / row["bare_a_second"])
    assert json.loads((tmp_path / "new" / "results.json").read_text(encoding="utf-8")) == data
    if plots.missing():
        assert "matplotlib" in data["plots_left_out"]
    else:
        assert (tmp_path / "new" / "scaling.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_missing_peers_are_named(tmp_path: Path) -> None:
    """With nothing on PATH, neither spin nor herd7 can be run."""
    done = bench("--quick", "--only", "spin", "--only", "herd", "--json", path=str(tmp_path))
    assert done.returncode == 0
    benchmarks = json.loads(done.stdout)["benchmarks"]
    assert benchmarks["spin"]["not_measured"] == ["Spin: spin is not on PATH"]
    assert benchmarks["herd"]["not_measured"] == ["herd7: not on PATH"]
    shown = bench("--quick", "--only", "herd", path=str(tmp_path))
    assert "not measured: herd7: not on PATH" in shown.stdout


@pytest.mark.parametrize(
    "arguments", [("--only", "nix"), ("--seeds", "0"), ("--bug", "nix"), ("extra",), ("--out", "/dev/null/x")]
)
def test_bad_input_is_one_line(arguments: tuple[str, ...]) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_every_benchmark_has_a_summary_and_its_own_name() -> None:
    for name in suite.MODULES:
        assert name == suite.get(name).NAME
        assert suite.get(name).SUMMARY


@pytest.mark.slow
def test_every_failing_scheme_is_searched_by_the_random_walk() -> None:
    assert {"none", "static-key-enable"} <= set(failing())
    assert {case.bug for case in cases(quick=False) if case.engine == "random"} >= set(failing())


def test_targets_have_a_side() -> None:
    assert WantedRatio("", 3.0, 2.0).met
    assert not WantedRatio("", 3.0, 2.0, at_least=False).met
    assert Result("x", targets=[WantedRatio("t", 1.0, 2.0)]).to_data()["targets"][0]["met"] is False


def test_figures_are_taken_in_turns() -> None:
    order: list[str] = []

    def measure(name: str, figure: float) -> float:
        order.append(name)
        return figure

    found = interleaved({"a": lambda: measure("a", 1.0), "b": lambda: measure("b", 2.0)}, 3)
    assert found == {"a": 1.0, "b": 2.0}
    assert order == ["a", "b"] * 3
    assert median_ratio(lambda: 6.0, lambda: 2.0, 3) == (6.0, 2.0, 3.0)
