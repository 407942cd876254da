"""Corpus files as tests, in a project of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.store import to_text
from fuzzvm.files.writing import write
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.corpus.test_format import OF_IMAGE
from tests.pytest_plugin.project import pytest_in


class _OneAfterTheOther:
    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        return enabled[0]

    def value(self, ways: int) -> int:
        return 0


def safe_case() -> TestCase:
    scenario = shipped.get("pmd-promotion")
    execution = execute(System(scenario, registry.shipped()["none"], "sc").machine(), _OneAfterTheOther())
    return TestCase(scenario, "none", "sc", execution.schedule, Expectation.of(execution))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder / "regressions" / "good.toml", to_text(safe_case()))
    return folder


def collect(corpus: Path, *options: str) -> tuple[int, str]:
    return pytest_in(corpus.parent, "-v", *options, str(corpus))


def test_one_test_a_file(corpus: Path) -> None:
    (corpus / "litmus").mkdir()
    (corpus / "litmus" / "expected.toml").write_text("not = 'a test case'")
    (corpus / "notes.txt").write_text("not a test case")
    status, output = collect(corpus)
    assert status == 0, output
    assert "regressions/good.toml::replay PASSED" in output
    assert "1 passed" in output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schedule": ((7,),)}, "no longer replays: step 1 is of agent 7"),
        ({"schedule": ()}, "no longer replays: the schedule ends after 0 steps"),
        ({"expect": Expectation("bug", "deadlock", "down_read")}, "expected deadlock in down_read, got safe"),
        ({"mitigation": "nonesuch"}, "no mitigation 'nonesuch'"),
        ({"mitigation": "mine.py:Mine"}, "the test case names mine.py:Mine"),
    ],
)
def test_a_file_that_does_not_replay_is_reported_without_a_traceback(
    corpus: Path, change: dict[str, object], says: str
) -> None:
    path = corpus / "regressions" / "bad.toml"
    write(path, to_text(replace(safe_case(), **change)))  # type: ignore[arg-type]
    status, output = collect(corpus)
    assert status == 1
    assert f"{path}: " in output and says in output
    assert "Traceback" not in output and "conftest.py" not in output
    assert "1 failed, 1 passed" in output


def test_a_file_that_is_no_test_case_is_reported_with_its_line(corpus: Path) -> None:
    path = corpus / "cut.toml"
    path.write_text('format = 1\nschedule = "0*3')
    status, output = collect(corpus)
    assert status == 1
    assert f"{path}:2: " in output
    assert "Traceback" not in output


OWN = """
from fuzzvm.kernel.hooks import Mitigation

class Mine(Mitigation):
    name = "mine"
"""


def test_a_mitigation_of_the_project_runs_where_its_settings_say_so(corpus: Path) -> None:
    write(corpus / "own.toml", to_text(replace(safe_case(), mitigation="mine.py:Mine")))
    (corpus.parent / "mine.py").write_text(OWN)
    status, output = collect(corpus)
    assert status == 1 and "runs only where" in output
    (corpus.parent / "pytest.ini").write_text("[pytest]\nfuzzvm_mitigations = mine.py:Mine\n")
    status, output = collect(corpus)
    assert status == 0, output
    assert "2 corpus files replayed" in output


def test_a_corpus_elsewhere_is_taken_where_the_settings_name_it(corpus: Path) -> None:
    corpus.rename(corpus.parent / "cases")
    status, output = pytest_in(corpus.parent)
    assert status == 5, output
    (corpus.parent / "pytest.ini").write_text("[pytest]\nfuzzvm_corpora = cases\n")
    status, output = pytest_in(corpus.parent)
    assert status == 0 and "1 passed" in output


def test_a_case_of_a_kernel_image_fails_and_says_what_it_needs(corpus: Path) -> None:
    (corpus / "regressions" / "image.toml").write_text(to_text(OF_IMAGE))
    status, said = collect(corpus)
    assert status == 1
    assert "of image abababababab (Linux 7.3.4), which no folder of the setting fuzzvm_images has" in said
