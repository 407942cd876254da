"""Makes a test of every corpus file: it passes where the run goes as the file expects."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import read
from fuzzvm.corpus.replay import replay
from fuzzvm.corpus.store import SUFFIX
from fuzzvm.machine.errors import ProgramError
from fuzzvm.mitigations.registry import MitigationError
from fuzzvm.scenario.errors import ScenarioError

CORPUS = Path(__file__).parent


class NotAsExpectedError(Exception):
    """A test case did not go as its file expects; the message is the report."""


class CorpusItem(pytest.Item):
    """The replay of one corpus file."""

    def runtest(self) -> None:
        try:
            problem = replay(read(self.path)).problem
        except (CorpusError, MitigationError, ScenarioError, ProgramError) as error:
            message = str(error)
            raise NotAsExpectedError(message if str(self.path) in message else f"{self.path}: {message}") from error
        if problem:
            raise NotAsExpectedError(f"{self.path}: {problem}\nsee what happens with: fuzzvm explain {self.path}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: str | None = None) -> str:
        if isinstance(excinfo.value, NotAsExpectedError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"replay of {self.path.name}"


class CorpusFile(pytest.File):
    """A corpus file: one test."""

    def collect(self) -> Iterable[CorpusItem]:
        yield CorpusItem.from_parent(self, name="replay")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CorpusFile | None:
    """Take the test cases: litmus tests and tables of expectations have readers of their own."""
    if file_path.suffix != SUFFIX or "litmus" in file_path.relative_to(CORPUS).parts:
        return None
    return CorpusFile.from_parent(parent, path=file_path)
