"""The scenarios that ship: the TOML files of scenario/builtin/, by the names of the files."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

from fuzzvm.scenario import pairs
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario


@cache
def shipped() -> dict[str, Scenario]:
    """Return every shipped scenario by name, in alphabetical order."""
    found = {}
    folder = resources.files("fuzzvm.scenario") / "builtin"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            name = entry.name.removesuffix(".toml")
            found[name] = Scenario.from_data(tomllib.loads(entry.read_text(encoding="utf-8")) | {"name": name})
    return found


def get(name: str) -> Scenario:
    """Return the shipped scenario of that name, or that of a pair. Raises ScenarioError naming those that there are."""
    if name in pairs.scenarios():
        return pairs.scenarios()[name]
    if name not in shipped():
        raise ScenarioError(f"no scenario {name!r}; there are {', '.join(shipped())}, or FILE.toml")
    return shipped()[name]
