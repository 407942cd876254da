"""Scenarios that users write: a TOML file with the keys that those have that ship."""

from __future__ import annotations

from pathlib import Path

from fuzzvm.scenario import shipped
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.toml_text import TomlTextError, line_of, loads, read_text

SUFFIX = ".toml"


def get(spec: str, root: Path | None = None) -> Scenario:
    """Return the shipped scenario of that name, or the one in a file: a path ends in `.toml`, or has a slash in it.

    The path counts from `root`. Raises ScenarioError naming those that there are, or the file, the line and what is
    wrong.
    """
    if spec not in shipped.shipped() and (spec.lower().endswith(SUFFIX) or "/" in spec):
        return read(Path(spec) if root is None else root / spec)
    return shipped.get(spec)


def read(path: Path) -> Scenario:
    """Return the scenario in a file. It is called as the file is, where it gives itself no name. Raises as `get`."""
    try:
        text = read_text(path)
    except TomlTextError as error:
        raise ScenarioError(f"{_place(path, error.line)}: {error}") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Scenario:
    """Return the scenario that a file's text stands for. Raises ScenarioError as `get` does, and nothing else."""
    try:
        data = loads(text)
        if "format" in data and "scenario" in data:
            raise ScenarioError("a test case, with a schedule: `fuzzvm replay` takes it", "format")
        if not data.get("name"):
            data["name"] = "".join(letter if letter.isprintable() else "?" for letter in path.name)
        return Scenario.from_data(data)
    except TomlTextError as error:
        raise ScenarioError(f"{_place(path, error.line)}: {error}") from error
    except ScenarioError as error:
        raise ScenarioError(f"{_place(path, line_of(text, error.key))}: {error}", error.key) from error


def _place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}:{line}"
