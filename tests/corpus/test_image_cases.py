"""Test cases of kernel images where no image is at hand: what is said, and who leaves them alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fuzzvm.campaigns.plain import seed_runs
from fuzzvm.corpus import care, store
from fuzzvm.corpus.replay import code_of, given_for, mitigation_of
from fuzzvm.machine.task import Task
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.registry import MitigationError
from fuzzvm.scenario.scenario import Scenario
from tests.corpus.test_format import CASE, IMAGE, OF_IMAGE


@dataclass(frozen=True)
class Code:
    """An image of a certain digest that runs nothing."""

    digest: str
    folder: Path = Path()

    def task(self, scenario: Scenario, memory: str) -> Task:
        raise AssertionError


OWN, OTHER = Code(IMAGE.digest), Code("cd" * 32)


def test_code_is_resolved_once_and_only_as_given() -> None:
    none = registry.get("none")
    assert code_of(OF_IMAGE, OWN) is OWN
    assert code_of(CASE) is none
    with pytest.raises(
        MitigationError, match=r"image abababababab \(Linux 7.3.4\).*--image DIR.*fuzzvm image build -o DIR"
    ):
        code_of(OF_IMAGE)
    with pytest.raises(MitigationError, match="--image DIR"):
        code_of(OF_IMAGE, none)
    with pytest.raises(MitigationError, match=f"{OWN.digest}.*{OTHER.digest}"):
        code_of(OF_IMAGE, OTHER)
    with pytest.raises(MitigationError, match="of mitigation none, and of no image"):
        code_of(CASE, OWN)
    with pytest.raises(MitigationError, match="not there for images"):
        mitigation_of(OF_IMAGE, none)


def test_of_several_images_the_one_with_the_digest_is_taken() -> None:
    assert given_for(OF_IMAGE, {OTHER.digest: OTHER, OWN.digest: OWN}) is OWN
    assert given_for(OF_IMAGE, {OTHER.digest: OTHER}) is OTHER
    assert given_for(CASE, {OTHER.digest: OTHER}) is None


def test_searches_of_the_model_begin_with_no_run_of_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "findings"
    for case in (CASE, OF_IMAGE):
        store.save(case, folder)
    assert seed_runs(folder) == [(CASE.scenario, CASE.schedule)]


def test_one_case_of_two_builds_of_an_image_is_one_file(tmp_path: Path) -> None:
    twin = replace(OF_IMAGE, image=replace(IMAGE, build="fuzzvm build elsewhere -o DIR"))
    path, new = store.save(OF_IMAGE, tmp_path)
    assert new
    assert store.save(twin, tmp_path) == (path, False)
    (entry,) = care.check(tmp_path, {})
    assert "--image DIR" in entry.problem
