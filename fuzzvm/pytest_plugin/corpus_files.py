"""Corpus files as tests: each passes where the run goes as the file expects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.corpus.replay import replay
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError
from fuzzvm.mitigations import registry
from fuzzvm.pytest_plugin.failures import NotAsExpectedError
from fuzzvm.pytest_plugin.runs import own_or_shipped
from fuzzvm.scenario.errors import ScenarioError

_FIRST_KEY = re.compile(rb"^\s*format\s*=", re.MULTILINE)


class CorpusItem(pytest.Item):
    """The replay of one corpus file."""

    def runtest(self) -> None:
        """Replay the file. Raises NotAsExpectedError."""
        path = self.path
        try:
            case = read(path)
            result = replay(case, self._own(case))
        except (CorpusError, registry.MitigationError, ScenarioError, ProgramError) as error:
            message = str(error)
            raise NotAsExpectedError(message if str(path) in message else f"{path}: {message}") from error
        self.user_properties.append(("fuzzvm_replay", result.case.expect.error or result.case.expect.verdict))
        if result.problem:
            raise NotAsExpectedError(f"{path}: {result.problem}\nsee what happens with: fuzzvm explain {path}")

    def _own(self, case: TestCase) -> type[Mitigation] | None:
        allowed = self.config.getini("fuzzvm_mitigations")
        return own_or_shipped(case.mitigation, self.config.rootpath) if case.mitigation in allowed else None

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where it stands, as pytest shows it."""
        return self.path, None, f"replay of {self.path.name}"


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
