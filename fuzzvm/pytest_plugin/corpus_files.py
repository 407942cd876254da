"""Corpus files as tests: each passes where the run goes as the file expects."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuzzvm.compiled.errors import ImageError
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.corpus.replay import replay
from fuzzvm.images.given import by_digest
from fuzzvm.machine.errors import ProgramError
from fuzzvm.mitigations import registry
from fuzzvm.pytest_plugin.asked import apart, place_of
from fuzzvm.pytest_plugin.failures import NotAsExpectedError
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.supervision.errors import UserCodeError

if TYPE_CHECKING:
    from fuzzvm.images.code import ImageCode

_FIRST_KEY = re.compile(rb"^\s*format\s*=", re.MULTILINE)


class CorpusItem(pytest.Item):
    """The replay of one corpus file."""

    def runtest(self) -> None:
        """Replay the file. Raises NotAsExpectedError."""
        path = self.path
        try:
            case = read(path)
            problem = self._problem(case)
        except (CorpusError, registry.MitigationError, ScenarioError, ProgramError, UserCodeError, ImageError) as error:
            message = str(error)
            raise NotAsExpectedError(message if str(path) in message else f"{path}: {message}") from error
        self.user_properties.append(("fuzzvm_replay", case.expect.error or case.expect.verdict))
        if problem:
            raise NotAsExpectedError(f"{path}: {problem}\nsee what happens with: fuzzvm explain {path}")

    def _problem(self, case: TestCase) -> str:
        """Return what is not as expected in a replay, '' where nothing is."""
        if case.image is not None:
            code = _images(tuple(self.config.getini("fuzzvm_images"))).get(case.image.digest)
            if code is None:
                raise registry.MitigationError(
                    f"the test case is of {case.image}, which no folder of the setting fuzzvm_images has; "
                    f"it is built by: {case.image.build}"
                )
            return replay(case, code).problem
        if case.mitigation not in self.config.getini("fuzzvm_mitigations"):
            return replay(case, None).problem
        spec = place_of(case.mitigation, self.config.rootpath)
        return apart(lambda: replay(case, registry.get(spec)).problem)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where it stands, as pytest shows it."""
        return self.path, None, f"replay of {self.path.name}"


@functools.cache
def _images(folders: tuple[Path, ...]) -> dict[str, ImageCode]:
    """Return the code of images by their digests. Raises ImageError."""
    return by_digest(folders)


class CorpusFile(pytest.File):
    """A corpus file: one test."""

    def collect(self) -> Iterable[CorpusItem]:
        """Yield its test."""
        yield CorpusItem.from_parent(self, name="replay")


def collect(path: Path, parent: pytest.Collector) -> CorpusFile | None:
    """Return the test of a file, or None where it is something else: a test case begins with its format's number."""
    with path.open("rb") as file:
        begins = file.read(4096)
    return CorpusFile.from_parent(parent, path=path) if _FIRST_KEY.search(begins) else None
