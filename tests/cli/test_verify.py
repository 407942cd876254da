"""`fuzzvm verify`, in a subprocess."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import fuzzvm
from tests.clock import PATIENCE
from tests.support import REAL_TABLES


def test_json_says_what_the_design_promises() -> None:
    done = fuzzvm("verify", "-m", "none", "-m", "static-key", "-s", "pmd-promotion", "--memory", "sc", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    bug, safe = json.loads(done.stdout)["runs"]
    keys = {"mitigation", "scenario", "memory", "verdict", "bug", "complete", "states", "transitions", "seconds"}
    assert keys | {"schedule"} <= set(bug)
    assert (bug["verdict"], bug["bug"], bug["complete"]) == ("bug", "use-after-free-read", True)
    assert bug["schedule"] == "1*5 0*10 1"
    assert (safe["verdict"], safe["bug"], safe["schedule"], safe["complete"]) == ("safe", None, None, True)


@pytest.mark.slow
def test_a_scenario_of_the_users_own_with_tables_as_large_as_a_kernels(tmp_path: Path) -> None:
    file = tmp_path / "real.toml"
    file.write_text(REAL_TABLES)
    arguments = ("-m", "none", "-m", "static-key", "-s", str(file), "--save", str(tmp_path / "findings"), "--json")
    done = fuzzvm("verify", *arguments)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert [(run["mitigation"], run["memory"], run["verdict"], run["complete"]) for run in runs] == [
        (mitigation, memory, verdict, True)
        for mitigation, verdict in (("none", "bug"), ("static-key", "safe"))
        for memory in ("sc", "tso", "arm64")
    ]
    assert {run["scenario"] for run in runs} == {"real.toml"}
    file.unlink()
    assert fuzzvm("replay", str(tmp_path / "findings")).returncode == 0


def test_two_scenarios_of_one_name_would_hide_each_other(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(REAL_TABLES.replace("512", "2" if folder == "one" else "4"))
    one, two = (str(tmp_path / folder / "mine.toml") for folder in ("one", "two"))
    done = fuzzvm("verify", "-m", "none", "-s", one, "-s", two)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fuzzvm: two scenarios are called 'mine.toml'; give one of the files another `name`\n"
    (tmp_path / "two" / "mine.toml").write_text(f'name = "pmd-promotion"\n{REAL_TABLES}')
    assert fuzzvm("verify", "-m", "none", "-s", "pmd-promotion", "-s", two).returncode == 2


def test_a_bound_is_in_the_verdict() -> None:
    done = fuzzvm("verify", "-m", "static-key", "-s", "two-walkers", "--memory", "sc", "--max-states", "50")
    assert "safe within the bound" in done.stdout
    assert "--max-states 50 reached" in done.stdout
    assert done.returncode == 0


def test_without_an_ordering_point_nothing_is_claimed(tmp_path: Path) -> None:
    arguments = ("-m", "static-key", "-s", "pmd-promotion", "--memory", "sc", "--without", "walk-key")
    done = fuzzvm("verify", *arguments, "--json", "--save", str(tmp_path))
    assert done.returncode == 1
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["verdict"], run["expected"], run["without"]) == ("bug", None, ["walk-key"])
    assert fuzzvm("replay", run["saved"]).returncode == 0
    assert "left out: walk-key" in fuzzvm("explain", run["saved"]).stdout
    still_safe = fuzzvm("verify", *arguments[:-1], "flush-isb", "--json")
    assert still_safe.returncode == 0
    (run,) = json.loads(still_safe.stdout)["runs"]
    assert (run["verdict"], run["complete"]) == ("safe", True)


@pytest.mark.always
def test_several_mitigations_and_scenarios_end_in_a_matrix() -> None:
    schemes = ("-m", "none", "-m", "static-key")
    done = fuzzvm("verify", *schemes, "-s", "pmd-promotion", "-s", "x86-pmd-promotion")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    sc, tso = lines.index("memory sc"), lines.index("memory tso")
    assert [line.split()[:2] for line in lines[sc + 1 : sc + 4]] == [
        ["scenario", "none"],
        ["pmd-promotion", "bug"],
        ["x86-pmd-promotion", "bug"],
    ]
    assert [line.split()[0] for line in lines[tso + 2 : tso + 4]] == ["pmd-promotion", "x86-pmd-promotion"]
    assert lines[lines.index("memory arm64") + 2].split()[0] == "pmd-promotion"
    assert lines[-1].startswith("10 runs: 5 safe, 5 bug, 0 cut; all as expected; ")
    assert "memory sc" not in fuzzvm("verify", *schemes, "-s", "pmd-promotion", "--memory", "sc").stdout.splitlines()


def test_saved_schedules_replay(tmp_path: Path) -> None:
    arguments = ("-m", "none", "-s", "pmd-promotion", "-s", "two-walkers", "--memory", "sc")
    assert fuzzvm("verify", *arguments, "--save", str(tmp_path)).returncode == 0
    assert len(list(tmp_path.glob("*.toml"))) == 2
    assert fuzzvm("replay", str(tmp_path)).returncode == 0


def test_tlbs_are_watched_where_asked_for(tmp_path: Path) -> None:
    arguments = ("-m", "static-key", "-s", "pmd-promotion", "-s", "tlb-promotion", "--memory", "sc", "--json")
    whole = fuzzvm("verify", *arguments, "--tlb")
    assert whole.returncode == 0
    assert [(run["verdict"], run["tlb"]) for run in json.loads(whole.stdout)["runs"]] == [("safe", True)] * 2
    left_out = ("--without", "flush-tlbi", "--save", str(tmp_path))
    without = fuzzvm("verify", *arguments, *left_out)
    assert without.returncode == 1
    runs = json.loads(without.stdout)["runs"]
    assert [(run["tlb"], run["bug"]) for run in runs] == [(False, None), (True, "hardware-walk-of-freed-table")]
    assert [(run["expected"], run["without"]) for run in runs] == [(None, ["flush-tlbi"])] * 2
    assert fuzzvm("replay", str(tmp_path)).returncode == 0
    told = fuzzvm("explain", runs[1]["saved"]).stdout
    assert "BUG: hardware-walk-of-freed-table in free_table" in told
    assert "Not flushed since" in told.splitlines()


DROPPED = """
import os, signal
from fuzzvm.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sent = []
def send():
    if not sent:
        sent.append(True)
        signal.raise_signal(signal.SIGINT)
os.register_at_fork(after_in_parent=send)
main()
"""
"""Python drops what a callback of a fork raises, an interrupt too."""


def test_ctrl_c_while_a_process_is_started_is_not_lost() -> None:
    arguments = ("verify", "-m", "rcu-free", "-s", "two-promoters", "-s", "two-walkers", "--memory", "sc", "-j", "2")
    arguments += ("--no-reduction",)
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted: 0 of 2 runs done\n")


MITIGATION = """
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.ops import Load

class Collects(Mitigation):
    name = "collects"
    def before_walk(self, k, mm):
        seen = []
        value = yield Load(1)
        seen.append(value)

class Unclaimed(Mitigation):
    name = "unclaimed"
"""


def test_a_mitigation_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MITIGATION, encoding="utf-8")
    unclaimed = fuzzvm("verify", "-m", f"{path}:Unclaimed", "-s", "pmd-promotion", "--memory", "sc")
    assert unclaimed.returncode == 1
    assert "bug: use-after-free-read" in unclaimed.stdout
    collects = fuzzvm("verify", "-m", f"{path}:Collects", "-s", "pmd-promotion", "--memory", "sc")
    assert collects.returncode == 2
    assert collects.stdout == ""
    assert collects.stderr.startswith(f"fuzzvm: {path}:9: Collects.before_walk: variable 'seen': a list")
    assert collects.stderr.count("\n") == 1


@pytest.mark.product
@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "nix"),
        ("-s", "nix"),
        ("--memory", "nix"),
        ("--max-states", "0"),
        ("--jobs", "x"),
        ("--without", "x"),
        ("extra",),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...]) -> None:
    done = fuzzvm("verify", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_html_is_a_matrix_with_the_story_of_each_failing_cell(tmp_path: Path) -> None:
    out = tmp_path / "out" / "matrix.html"
    ran = fuzzvm(
        "verify", "-m", "none", "-m", "static-key", "-s", "pmd-promotion", "--memory", "sc", "--html", str(out)
    )
    assert ran.returncode == 0, ran.stderr
    page = out.read_text(encoding="utf-8")
    (story,) = (out.parent / "matrix-stories").glob("*.html")
    assert f'href="matrix-stories/{story.name}"' in page
    assert "use-after-free-read" in page and "safe" in page
    assert "use-after-free-read" in story.read_text(encoding="utf-8")
    replayed = fuzzvm("replay", str(story.with_suffix(".toml")))
    assert replayed.returncode == 0, replayed.stdout


def test_html_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "matrix.html"
    ran = fuzzvm("verify", "-m", "none", "-s", "pmd-promotion", "--memory", "sc", "--html", str(out))
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1 and str(out.parent) in ran.stderr
