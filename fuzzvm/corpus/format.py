"""The text of a test case: scenario, mitigation or image, memory model, schedule, and what must come of them.

A test case is TOML, complete in itself, and data alone: reading one never runs code, and a mitigation named by a file
(`mine.py:Scheme`) is not imported because a corpus file says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzvm.compiled import errors as compiled_errors
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.image_table import ImageTable, ImageTableError
from fuzzvm.kernel.errors import DESCRIPTIONS
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.execution import Execution
from fuzzvm.machine.schedule import Schedule, format_schedule, parse_schedule
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.toml_text import TomlTextError, line_of, loads, read_text, text_of

FORMAT = 1
HALF = 6
"""Hexadecimal digits of half the number in a file's name."""
MAX_SCHEME = 80
"""Characters of a file's name that tell of its mitigation."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must come of a run: `verdict` safe or bug, and for a bug the error's id and the function it happens in."""

    verdict: str
    error: str = ""
    function: str = ""

    @classmethod
    def of(cls, execution: Execution) -> Expectation:
        """Return what came of a run."""
        if execution.failure is None:
            return cls("safe")
        return cls("bug", execution.failure.error, execution.failure.function)

    def __str__(self) -> str:
        return self.verdict if self.verdict == "safe" else f"{self.error} in {self.function or 'the run as a whole'}"


@dataclass(frozen=True)
class TestCase:
    """One run to repeat. `origin` is a line on where it comes from, in people's words.

    `without` names the ordering points that the run leaves out; the file has no such key where there are none.
    `image` is the kernel image whose code is run, and no mitigation then, which is ''.
    """

    __test__ = False  # no test class of pytest's, whatever its name says

    scenario: Scenario
    mitigation: str
    memory: str
    schedule: Schedule
    expect: Expectation
    origin: str = field(default="", compare=False)
    without: tuple[str, ...] = ()
    image: ImageTable | None = None

    @property
    def code(self) -> str:
        """What it calls the code that is run: the mitigation's name, or the image's digest."""
        return self.mitigation if self.image is None else self.image.digest

    def to_data(self) -> dict[str, Any]:
        """Return it as the plain data that its file holds."""
        expect = {"verdict": self.expect.verdict}
        if self.expect.verdict == "bug":
            expect |= {"error": self.expect.error, "function": self.expect.function}
        return {
            "format": FORMAT,
            "origin": self.origin,
            **({"mitigation": self.mitigation} if self.image is None else {}),
            **({"without": list(self.without)} if self.without else {}),
            "memory": self.memory,
            "schedule": format_schedule(self.schedule),
            "expect": expect,
            **({} if self.image is None else {"image": self.image.to_data()}),
            "scenario": self.scenario.to_data(),
        }

    def identity(self) -> str:
        """Return a short name for what it runs and expects, the same wherever it was found."""
        data = self.to_data()
        del data["origin"]
        if self.image is not None:
            # it is the same wherever, and of whatever, it was built
            data["image"] = {"digest": self.image.digest}
        for label in ("name", "summary"):
            data["scenario"].pop(label, None)
        return _digest(data)

    def file_name(self) -> str:
        """Return the name of its file in a corpus.

        The first half of the number is what it runs, the second the whole text: two branches that find the same case
        in different ways have two files, which git merges without conflict, and `fuzzvm corpus` takes for one.
        """
        return self._file_name(self.identity()[:HALF] + _digest(self.to_data())[:HALF])

    def former_file_name(self) -> str:
        """Return the name that its file had when origin and labels were no part of it; old corpora have such files."""
        return self._file_name(self.identity())

    def _file_name(self, number: str) -> str:
        called = self.mitigation if self.image is None else self.image.label
        scheme = re.sub(r"[^a-z0-9]+", "-", called.lower()).strip("-")[:MAX_SCHEME]
        return f"{scheme}-{self.expect.error or 'safe'}-{number}.toml"


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(data).encode()).hexdigest()[: 2 * HALF]


def read(path: Path) -> TestCase:
    """Return the test case in a file. Raises CorpusError naming the file, the line and what is wrong."""
    try:
        text = read_text(path)
    except TomlTextError as error:
        raise CorpusError(path, str(error), error.line) from error
    return parse(text, path)


def from_bytes(raw: bytes, path: Path | str = "<bytes>") -> TestCase:
    """Return the test case that a file's bytes stand for. Raises as `read` does, and nothing else."""
    try:
        text = text_of(raw)
    except TomlTextError as error:
        raise CorpusError(path, str(error), error.line) from error
    return parse(text, path)


def parse(text: str, path: Path | str = "<text>") -> TestCase:
    """Return the test case that a text stands for. Raises CorpusError; `path` is what it calls the file."""
    try:
        return _from_data(loads(text))
    except TomlTextError as error:
        raise CorpusError(path, str(error), error.line) from error
    except (ScenarioError, _WrongError) as error:
        raise CorpusError(path, str(error), line_of(text, error.key)) from error


class _WrongError(Exception):
    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def _from_data(data: Mapping[str, Any]) -> TestCase:
    version = data.get("format")
    if type(version) is not int:
        raise _WrongError("no format number, so no test case", "format")
    if version > FORMAT:
        raise _WrongError(f"format {version} is newer than this fuzzvm reads ({FORMAT}); update fuzzvm", "format")
    if version != FORMAT:
        raise _WrongError(f"there is no format {version}", "format")
    known = {"format", "origin", "mitigation", "without", "memory", "schedule", "expect", "image", "scenario"}
    for key in data:
        if key not in known:
            raise _WrongError(f"unknown key {key!r}", key)
    image = None if "image" not in data else _image(data)
    for key in ("mitigation", "memory", "schedule") if image is None else ("memory", "schedule"):
        if not isinstance(data.get(key), str):
            raise _WrongError(f"{key} must be a string", key)
    for key in ("expect", "scenario"):
        if not isinstance(data.get(key), dict):
            raise _WrongError(f"there is no table [{key}]", key)
    if not isinstance(data.get("origin", ""), str):
        raise _WrongError("origin must be a string", "origin")
    _printable(data, "origin", "mitigation")
    if data["memory"] not in memory_models.names():
        raise _WrongError(f"no memory model {data['memory']!r}; there are {', '.join(memory_models.names())}", "memory")
    try:
        schedule = parse_schedule(data["schedule"])
    except ValueError as error:
        raise _WrongError(f"schedule: {error}", "schedule") from error
    return TestCase(
        scenario=Scenario.from_data(data["scenario"]),
        mitigation=data.get("mitigation", ""),
        memory=data["memory"],
        schedule=schedule,
        expect=_expectation(data["expect"], DESCRIPTIONS if image is None else _OF_IMAGES),
        origin=data.get("origin", ""),
        without=_without(data.get("without", [])),
        image=image,
    )


_OF_IMAGES = DESCRIPTIONS | compiled_errors.DESCRIPTIONS
"""Errors that a run of an image may have."""


def _image(data: Mapping[str, Any]) -> ImageTable:
    for key in ("mitigation", "without"):
        if key in data:
            raise _WrongError(f"{key} and [image] exclude each other", key)
    if not isinstance(data["image"], dict):
        raise _WrongError("image must be a table", "image")
    try:
        return ImageTable.from_data(data["image"])
    except ImageTableError as error:
        raise _WrongError(str(error), error.key) from error


def _without(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _WrongError("without must be a list of ordering points", "without")
    for name in names:
        if name not in ordering_points.names():
            raise _WrongError(f"no ordering point {name!r}; fuzzvm necessity --help lists them", "without")
    return tuple(names)


def _expectation(data: Mapping[str, Any], errors: Mapping[str, str]) -> Expectation:
    verdict = data.get("verdict")
    wanted = {"safe": {"verdict"}, "bug": {"verdict", "error", "function"}}.get(str(verdict))
    if wanted is None:
        raise _WrongError(f"verdict must be safe or bug, not {verdict!r}", "verdict")
    if set(data) != wanted:
        raise _WrongError(f"[expect] of a {verdict} has {', '.join(sorted(wanted))}, not {', '.join(data)}", "verdict")
    if verdict == "safe":
        return Expectation("safe")
    if data["error"] not in errors:
        raise _WrongError(f"no error {data['error']!r}", "error")
    if not isinstance(data["function"], str):
        raise _WrongError("function must be a string", "function")
    _printable(data, "function")
    return Expectation("bug", data["error"], data["function"])


def _printable(data: Mapping[str, Any], *keys: str) -> None:
    """Refuse what a terminal would obey, or show in another order than it stands: escapes, line ends, bidi marks."""
    for key in keys:
        if isinstance(data.get(key), str) and not data[key].isprintable():
            raise _WrongError(f"{key} has a character that cannot be printed", key)
