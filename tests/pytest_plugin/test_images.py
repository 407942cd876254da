"""Releases, proposals on them, and kernel images as what tests search."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.corpus.format import read
from tests.compiled import small
from tests.pytest_plugin.project import pytest_in

RELEASES = """
import pytest
from fuzzvm.kernel.hooks import Mitigation

class Nothing(Mitigation):
    name = "nothing"

@pytest.mark.fuzzvm(release="linux-7.3", scenarios=["pmd-promotion"], memory="sc")
def test_release(fuzzvm_run):
    fuzzvm_run.must_be_proven_safe()

@pytest.mark.fuzzvm(Nothing, release="linux-6.18", scenarios=["x86-pmd-promotion"], memory="sc")
def test_proposal(fuzzvm_run):
    fuzzvm_run.must_survive()

@pytest.mark.fuzzvm("test_it.py:Nothing", release="linux-6.18", scenarios=["x86-pmd-promotion"], memory="sc")
def test_proposal_by_name(fuzzvm_run):
    fuzzvm_run.must_fail("use-after-free-read")
"""


def project(folder: Path, test: str) -> Path:
    (folder / "test_it.py").write_text(test)
    return folder


@pytest.mark.always
def test_a_release_and_a_mitigation_on_it(tmp_path: Path) -> None:
    status, output = pytest_in(project(tmp_path, RELEASES), "-v")
    assert status == 1 and "1 failed, 2 passed" in output, output
    assert "test_proposal[x86-pmd-promotion-sc] FAILED" in output
    (saved,) = (tmp_path / "corpus" / "findings").iterdir()
    assert read(saved).mitigation == "linux-6.18+test_it.py:Nothing"
    (tmp_path / "pytest.ini").write_text("[pytest]\nfuzzvm_mitigations = linux-6.18+test_it.py:Nothing\n")
    status, output = pytest_in(tmp_path, "corpus")
    assert status == 0 and "1 corpus files replayed" in output, output


SURVIVES = """
def test_it(must_survive):
    must_survive({arguments})
"""


@pytest.mark.product
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "nothing to search: give a mitigation, a release or an image"),
        ("release='linux-1.0'", "no release 'linux-1.0'; there are linux-6.12"),
        ("image='gone'", "gone"),
        ("image='gone', release='linux-7.3'", "image and release exclude each other"),
        ("image='gone', without=['flush-isb']", "image and without exclude each other"),
        ("release='linux-7.3', memory='sc', memories=['sc']", "memory and memories exclude each other"),
        ("release='linux-7.3', scenarios=[]", "there is no scenario to search"),
        ("release='linux-7.3', nonesuch=1", "nonesuch"),
    ],
)
def test_what_is_not_there_fails_in_one_line(tmp_path: Path, arguments: str, says: str) -> None:
    status, output = pytest_in(project(tmp_path, SURVIVES.format(arguments=arguments)))
    assert status == 1 and "must_survive: " in output and says in output, output
    assert "Traceback" not in output and "asked.py" not in output


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an image of the small kernel."""
    return small.build_image(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def without_lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one that promotes without the lock."""
    return small.build_image(tmp_path_factory.mktemp("no-trylock"), config=small.FRAGMENT)


@small.needs_compiler
def test_an_image_must_survive_and_what_it_does_not_is_a_test_from_then_on(
    tmp_path: Path, small_folder: Path, without_lock: Path
) -> None:
    (tmp_path / "broken").symlink_to(without_lock)
    test = f"""
import pytest

def test_broken(must_survive):
    must_survive(image="broken", scenarios=["pmd-promotion"], memory="sc")

@pytest.mark.fuzzvm(image="broken", scenarios=["pmd-promotion"], memories=["arm64"])
def test_proof(fuzzvm_run):
    fuzzvm_run.must_be_proven_safe(max_states=20_000)

@pytest.mark.fuzzvm(image={str(small_folder)!r}, scenarios=["pmd-promotion"], memory="sc")
def test_proof_of_the_right_one(fuzzvm_run):
    fuzzvm_run.must_be_proven_safe()
"""
    status, output = pytest_in(project(tmp_path, test), "--fuzzvm-seconds", "300", "-v")
    assert status == 1 and "2 failed, 1 passed" in output, output
    assert "test_broken FAILED" in output and "test_proof[pmd-promotion-arm64] FAILED" in output, output
    assert output.count("BUG: ") == 2 and "mm/pagewalk.c" in output and "Traceback" not in output
    (saved,) = (tmp_path / "corpus" / "findings").iterdir()
    assert f"fuzzvm replay {saved} --image {tmp_path / 'broken'}" in output
    status, output = pytest_in(tmp_path, "corpus")
    assert status == 1 and "the setting fuzzvm_images" in output, output
    (tmp_path / "pytest.ini").write_text("[pytest]\nfuzzvm_images = broken\n")
    status, output = pytest_in(tmp_path, "corpus")
    assert status == 0 and "1 corpus files replayed" in output, output


@small.needs_compiler
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("scenarios=['x86-pmd-promotion']", "it is of x86_64, and the image of arm64"),
        ("scenarios=['pmd-promotion'], engine='atheris'", "engine 'atheris' is not there for images"),
    ],
)
def test_what_an_image_cannot_do_fails_in_one_line(
    tmp_path: Path, small_folder: Path, arguments: str, says: str
) -> None:
    status, output = pytest_in(
        project(tmp_path, SURVIVES.format(arguments=f"image={str(small_folder)!r}, {arguments}"))
    )
    assert status == 1 and "must_survive: " in output and says in output, output
