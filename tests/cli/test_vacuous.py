"""A scheme that makes nothing happen is not safe: `verify`, `fuzz`, campaigns and the pytest plugin say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuzzvm.runs import engines
from tests.cli.running import fuzzvm
from tests.pytest_plugin.project import pytest_in

SCHEMES = """\
from fuzzvm.kernel.hooks import Mitigation

class ForgetsReturn(Mitigation):
    name = "forgets-return"
    one_walker = two_walkers = "safe"
    def before_promotion(self, k, level):
        yield from ()

class NeverPromotes(ForgetsReturn):
    name = "never-promotes"
    def before_promotion(self, k, level):
        yield from ()
        return False

class SaysSo(NeverPromotes):
    name = "says-so"
    gives_up = frozenset({"promotion", "table-freed", "walked-table-freed"})
"""
NEVER = ["promotion", "table-freed", "walked-table-freed"]
TEXT = (
    "vmap cleared an entry that led to a table, to put a block in its place (promotion); "
    "nor table-freed, walked-table-freed"
)


@pytest.fixture
def schemes(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(SCHEMES)
    return str(path)


VERIFY = ("verify", "-s", "pmd-promotion", "--memory", "sc")


@pytest.mark.parametrize("command", [VERIFY, ("fuzz", "-s", "pmd-promotion", "--runs", "200")])
def test_a_hook_that_forgets_its_return_is_named(schemes: str, command: tuple[str, ...]) -> None:
    done = fuzzvm(*command, "-m", f"{schemes}:ForgetsReturn")
    assert (done.returncode, done.stdout) == (2, "")
    says = "before_promotion of ForgetsReturn returned None; it must return True or False"
    assert done.stderr == f"fuzzvm: {schemes}:6: {says}\n"


@pytest.mark.always
def test_verify_says_vacuous(schemes: str) -> None:
    mine = f"{schemes}:NeverPromotes"
    done = fuzzvm(*VERIFY, "-m", mine)
    assert done.returncode == 1
    row, line = done.stdout.splitlines()[1], done.stdout.splitlines()[-1]
    assert row.split()[3] == "vacuous" and row.endswith("NO")
    assert line == f"{mine}, pmd-promotion, sc: vacuous: in no schedule {TEXT}"


def test_verify_shows_what_happened(schemes: str) -> None:
    done = fuzzvm(*VERIFY, "-m", f"{schemes}:SaysSo", "-m", "none", "--happened")
    assert done.returncode == 0
    at = done.stdout.splitlines().index("Happened in some schedule:")
    columns = [line.split("  ") for line in done.stdout.splitlines()[at + 2 :]]
    cells = [[cell.strip() for cell in line if cell] for line in columns]
    assert cells[0][3:] == ["walk", "-", ", ".join(NEVER)]
    assert cells[1][3].startswith("promotion") and cells[1][4:] == ["-", "-"]


@pytest.mark.slow
def test_verify_says_it_in_json_and_in_the_matrix(schemes: str, tmp_path: Path) -> None:
    out = tmp_path / "matrix.html"
    mine = ("-m", f"{schemes}:NeverPromotes", "-m", f"{schemes}:SaysSo")
    done = fuzzvm(*VERIFY, *mine, "--json", "--html", str(out))
    assert done.returncode == 1
    silent, said = json.loads(done.stdout)["runs"]
    assert (silent["verdict"], silent["as_expected"], silent["complete"]) == ("vacuous", False, True)
    assert (silent["not_met"], silent["gives_up"]) == (NEVER, [])
    assert {point for point, met in silent["happened"].items() if met} == {"walk"}
    assert (said["verdict"], said["not_met"], said["gives_up"]) == ("safe", [], NEVER)
    assert "never: promotion, table-freed, walked-table-freed" in out.read_text()
    table = fuzzvm(*VERIFY, *mine, "-s", "two-walkers").stdout
    assert "vacuous!" in table
    assert "4 runs: 2 safe, 0 bug, 0 cut, 2 vacuous; 2 NOT as expected; " in table


@pytest.mark.slow
def test_fuzz_says_vacuous_once_there_were_enough_runs(schemes: str, tmp_path: Path) -> None:
    mine = ("fuzz", "-m", f"{schemes}:NeverPromotes", "-s", "pmd-promotion", "--corpus", str(tmp_path / "corpus"))
    done = fuzzvm(*mine, "--runs", "150")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split()[5] == "vacuous"
    never = f"vacuous: in none of the 150 runs {TEXT}"
    assert done.stdout.endswith(f"mine.py:NeverPromotes, {engines.DEFAULT}, pmd-promotion: {never}\n")
    few = fuzzvm(*mine, "--runs", "50", "--json")
    data = json.loads(few.stdout)
    assert (few.returncode, data["verdict"]) == (0, "safe")
    met = {"promotion": None, "table-freed": None, "walk": 1, "walked-table-freed": None}
    assert data["searches"][0]["happened"] == {"pmd-promotion": {"runs": 50, "first_run": met}}
    many = fuzzvm(*mine, "--runs", "150", "--json", "--expect-claims")
    (search,) = json.loads(many.stdout)["searches"]
    assert many.returncode == 1
    assert (search["verdict"], search["expected"], search["as_expected"]) == ("vacuous", "safe", False)
    assert fuzzvm(*mine[:2], f"{schemes}:SaysSo", *mine[3:], "--runs", "150").returncode == 0


@pytest.mark.slow
def test_a_campaign_says_vacuous_and_so_does_its_folder(schemes: str, tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    mine = ("-m", f"{schemes}:NeverPromotes", "-m", "vmap-trylock", "-s", "pmd-promotion", "-e", "pct")
    done = fuzzvm("fuzz", *mine, "--runs", "600", "--jobs", "2", "--campaign", str(folder), "--json")
    assert done.returncode == 1
    read = json.loads(fuzzvm("status", str(folder), "--json").stdout)
    for data in (json.loads(done.stdout), read):
        silent, lock = data["searches"]
        assert (data["verdict"], silent["verdict"], lock["verdict"]) == ("vacuous", "vacuous", "safe")
        assert silent["vacuous"] == ["pmd-promotion, arm64"]
        assert [point for point, met in silent["happened"]["pmd-promotion, arm64"].items() if not met] == NEVER
        assert all(lock["happened"]["pmd-promotion, arm64"].values())
    assert f"vacuous: in no run {TEXT}" in fuzzvm("status", str(folder)).stdout
    again = fuzzvm("fuzz", "--resume", str(folder), *mine[:2], "--runs", "100", "--happened")
    lines = again.stdout.splitlines()
    rows = lines[lines.index("Happened in some run:") + 2 :]
    assert [row.split()[1:] for row in rows[:1]] == [["pmd-promotion,", "arm64", "walk", *", ".join(NEVER).split()]]


@pytest.mark.slow
def test_the_pytest_plugin_fails_a_test_of_it(tmp_path: Path) -> None:
    mark = '@pytest.mark.fuzzvm(mitigation={}, scenarios=["pmd-promotion"], memories=["sc"])\n'
    tests = "".join(
        f"\n{mark.format(scheme)}def test_{scheme.lower()}_{method}(fuzzvm_run):\n    fuzzvm_run.{method}()\n"
        for scheme in ("NeverPromotes", "SaysSo")
        for method in ("must_survive", "must_be_proven_safe")
    )
    (tmp_path / "test_schemes.py").write_text(f"import pytest\n{SCHEMES}{tests}")
    # how many runs a second has is no matter of the test
    (tmp_path / "conftest.py").write_text("from fuzzvm.runs import happened\nhappened.ENOUGH_RUNS = 1\n")
    status, output = pytest_in(tmp_path, "--fuzzvm-seconds", "1")
    assert status == 1 and "2 failed, 2 passed" in output, output
    assert f"pmd-promotion, sc is for what happened in no schedule: {', '.join(NEVER)}" in output
    assert output.count("vacuous: ") >= 2
