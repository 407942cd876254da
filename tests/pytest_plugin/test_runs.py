"""The marker and its fixture, in a project of its own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fuzzvm.corpus.format import read
from tests.pytest_plugin.project import pytest_in

SCHEMES = """
import pytest
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock

class Nothing(Mitigation):
    name = "nothing"

class Locked(Mitigation):
    name = "locked"

    def before_clear(self, k, level):
        yield from mmap_read_lock(k, k.init_mm)

    def after_free(self, k, level, token):
        yield from mmap_read_unlock(k, k.init_mm)
"""

FOUND = """
@pytest.mark.fuzzvm(mitigation=Nothing, scenarios=["pmd-promotion"], memories=["sc"])
def test_nothing(fuzzvm_run):
    fuzzvm_run.must_survive()
"""


def project(folder: Path, *tests: str) -> Path:
    (folder / "test_schemes.py").write_text(SCHEMES + "".join(tests))
    return folder


def test_what_survives_passes_for_each_scenario_and_memory(tmp_path: Path) -> None:
    test = """
@pytest.mark.fuzzvm(mitigation=Locked, scenarios=["pmd-promotion", "pud-promotion"], memories=["sc", "arm64"])
def test_locked(fuzzvm_run):
    fuzzvm_run.must_survive()
"""
    status, output = pytest_in(project(tmp_path, test), "-v", "--fuzzvm-seconds", "1")
    assert status == 0, output
    for system in ("pmd-promotion-sc", "pmd-promotion-arm64", "pud-promotion-sc", "pud-promotion-arm64"):
        assert f"test_locked[{system}] PASSED" in output
    assert "4 systems searched in " in output
    assert not (tmp_path / "corpus").exists()


def test_what_does_not_survive_fails_with_its_story_and_is_saved(tmp_path: Path) -> None:
    status, output = pytest_in(project(tmp_path, FOUND), "--junitxml=result.xml")
    assert status == 1
    assert "BUG: use-after-free-read in ptdump_pte_entry" in output
    assert "Traceback" not in output and "runs.py" not in output
    (saved,) = (tmp_path / "corpus" / "findings").iterdir()
    assert f"saved: {saved}" in output
    assert read(saved).mitigation == "test_schemes.py:Nothing"
    failure = ElementTree.parse(tmp_path / "result.xml").find(".//testcase/failure")
    assert failure is not None and failure.get("message", "").startswith("use-after-free-read")
    properties = ElementTree.parse(tmp_path / "result.xml").findall(".//testcase/properties/property")
    assert ("fuzzvm_error", "use-after-free-read") in [(found.get("name"), found.get("value")) for found in properties]


def test_the_finding_is_a_test_from_then_on(tmp_path: Path) -> None:
    project(tmp_path, FOUND)
    pytest_in(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfuzzvm_mitigations = test_schemes.py:Nothing\n")
    status, output = pytest_in(tmp_path, "corpus")
    assert status == 0 and "1 corpus files replayed" in output, output


def test_a_bug_that_must_be_there(tmp_path: Path) -> None:
    test = """
@pytest.mark.fuzzvm(mitigation=Nothing, scenarios=["pmd-promotion"], memories=["sc"])
def test_nothing(fuzzvm_run):
    fuzzvm_run.must_fail("use-after-free-read")

@pytest.mark.fuzzvm(mitigation=Nothing, scenarios=["pmd-promotion"], memories=["sc"])
def test_another_bug(fuzzvm_run):
    fuzzvm_run.must_fail("deadlock")
"""
    # both end with the bug, however long it takes on a busy machine
    status, output = pytest_in(project(tmp_path, test), "--fuzzvm-seconds", "60")
    assert status == 1 and "1 failed, 1 passed" in output
    assert "use-after-free-read found in" in output


def test_a_bug_that_must_be_there_and_is_not(tmp_path: Path) -> None:
    test = """
@pytest.mark.fuzzvm(mitigation=Locked, scenarios=["pmd-promotion"], memories=["sc"])
def test_no_bug(fuzzvm_run):
    fuzzvm_run.must_fail()
"""
    status, output = pytest_in(project(tmp_path, test), "--fuzzvm-seconds", "0.5")
    assert status == 1 and "1 failed" in output
    assert "no bug found in" in output or "no run of" in output


def test_a_search_without_a_run_is_begun_again_for_longer(tmp_path: Path) -> None:
    """A busy machine may take longer for one run than a search may last."""
    test = """
from fuzzvm.pytest_plugin import runs

searched = runs._search

def slow(asked, seconds, *rest):
    return runs._Found(0) if seconds < 2 else searched(asked, seconds, *rest)

@pytest.mark.fuzzvm(mitigation=Locked, scenarios=["pmd-promotion"], memories=["sc"])
def test_survives(fuzzvm_run, monkeypatch):
    monkeypatch.setattr(runs, "_search", slow)
    fuzzvm_run.must_survive()
"""
    status, output = pytest_in(project(tmp_path, test), "--fuzzvm-seconds", "1")
    assert status == 0 and "1 passed" in output, output


def test_proofs(tmp_path: Path) -> None:
    test = """
@pytest.mark.fuzzvm(mitigation=Locked, scenarios=["pmd-promotion"], memories=["sc"])
def test_locked(fuzzvm_run):
    fuzzvm_run.must_be_proven_safe()

@pytest.mark.fuzzvm(mitigation=Locked, scenarios=["pmd-promotion"], memories=["sc"])
def test_cut(fuzzvm_run):
    fuzzvm_run.must_be_proven_safe(max_states=10)

@pytest.mark.fuzzvm("none", scenarios=["pmd-promotion"], memories=["sc"])
def test_none(fuzzvm_run):
    fuzzvm_run.must_be_proven_safe()
"""
    status, output = pytest_in(project(tmp_path, test))
    assert status == 1 and "2 failed, 1 passed" in output
    assert "is not proven safe: --max-states 10 reached" in output
    assert "BUG: use-after-free-read" in output
    assert "1 proved over" in output


def test_a_scenario_in_a_file_counts_from_the_root_folder(tmp_path: Path) -> None:
    test = """
@pytest.mark.fuzzvm(mitigation=Locked, scenarios=["own/mine.toml"], memories=["sc"])
def test_locked(fuzzvm_run):
    assert fuzzvm_run.scenario.name == "mine.toml"
    fuzzvm_run.must_be_proven_safe()
"""
    root = project(tmp_path, test)
    (root / "own").mkdir()
    shipped = resources.files("fuzzvm.scenario") / "builtin" / "pmd-promotion.toml"
    (root / "own" / "mine.toml").write_text(shipped.read_text(encoding="utf-8"))
    status, output = pytest_in(root / "own", "--rootdir", str(root), str(root / "test_schemes.py"))
    assert status == 0 and "1 passed" in output, output


def test_beside_other_processes(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    test = FOUND.replace("Nothing", "Locked").replace("test_nothing", "test_locked")
    status, output = pytest_in(project(tmp_path, FOUND, test), "-p", "xdist", "-n", "2", "--fuzzvm-seconds", "2")
    assert status == 1 and "1 failed, 1 passed" in output
    assert "saved: " in output and "2 systems searched in " in output


@pytest.mark.product
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'nonesuch'", "no mitigation 'nonesuch'"),
        ("'gone.py:Mine'", "gone.py: no such file"),
        ("mitigation=int", "neither a mitigation's name nor its class"),
        ("'none', scenarios=['nonesuch']", "no scenario 'nonesuch'"),
        ("'none', scenarios=['gone.toml']", "gone.toml: No such file"),
        ("'none', memories=['nonesuch']", "no memory model 'nonesuch'"),
        ("'none', engine='nonesuch'", "no engine 'nonesuch'"),
        ("'none', without=['nonesuch']", "no ordering point 'nonesuch'"),
        ("'none', nonesuch=1", "nonesuch"),
    ],
)
def test_a_marker_that_asks_for_what_is_not_there(tmp_path: Path, arguments: str, says: str) -> None:
    test = f"""
@pytest.mark.fuzzvm({arguments})
def test_it(fuzzvm_run):
    fuzzvm_run.must_survive()
"""
    status, output = pytest_in(project(tmp_path, test))
    assert status != 0 and "test_schemes.py::test_it: marker fuzzvm: " in output and says in output, output
    assert "Traceback" not in output and "runs.py" not in output


def test_the_marker_without_its_fixture(tmp_path: Path) -> None:
    """A test that says which systems to search, and searches none, must not pass."""
    status, output = pytest_in(project(tmp_path, "@pytest.mark.fuzzvm('none')\ndef test_it():\n    pass\n"))
    assert status != 0 and "marker fuzzvm without fuzzvm_run searches nothing" in output


def test_the_fixture_without_its_marker(tmp_path: Path) -> None:
    status, output = pytest_in(project(tmp_path, "def test_it(fuzzvm_run):\n    pass\n"))
    assert status != 0 and "fuzzvm_run needs the marker fuzzvm" in output


def test_a_broken_scheme_is_reported_with_its_line(tmp_path: Path) -> None:
    test = """
class Broken(Mitigation):
    name = "broken"

    def before_clear(self, k, level):
        yield from ()
        raise RuntimeError("oops")

@pytest.mark.fuzzvm(mitigation=Broken, scenarios=["pmd-promotion"], memories=["sc"])
def test_broken(fuzzvm_run):
    fuzzvm_run.must_survive()
"""
    status, output = pytest_in(project(tmp_path, test))
    assert status == 1 and "test_schemes.py:" in output and "oops" in output and "Traceback" not in output


@pytest.mark.parametrize("seconds", ["0", "-1", "many"])
def test_no_time_is_a_usage_error(tmp_path: Path, seconds: str) -> None:
    status, output = pytest_in(tmp_path, "--fuzzvm-seconds", seconds)
    assert status == 4 and "--fuzzvm-seconds" in output
