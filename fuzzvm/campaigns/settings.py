"""What a campaign is about, as it stands in its folder from the first moment on and never changes.

To read settings runs no code: what they name is looked up, and a mitigation of the user's own is no more than a name
here. `own_code` says when it may run.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzzvm
from fuzzvm.campaigns.errors import CampaignError, DamagedError
from fuzzvm.machine import memory as memory_models
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.runs import engines
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.matrix import Cell

FORMAT = 2
MAX_BYTES = 64 << 20
"""Of the settings' file; 12,000 targets have 3 MB."""
PAYS = "pays"
EVEN = "even"
SCHEDULES = (PAYS, EVEN)


@dataclass(frozen=True)
class Settings:
    """What is searched, by what, from which seed, and for how long.

    `seconds` and `runs` are the budget of the campaign as a whole, over all its sittings. `even_runs` is how many runs
    a task has where time is divided evenly. `corpus` is a folder that gets each finding as well, or None.
    """

    targets: tuple[Cell, ...]
    engines: tuple[str, ...]
    seed: int
    seconds: float | None
    runs: int | None
    jobs: int
    keep_going: bool
    schedule_by: str
    hook_seconds: float
    expect_claims: bool = False
    corpus: str | None = None
    even_runs: int = 500
    claims: tuple[tuple[str, str | None], ...] = ()
    """What each mitigation claims over the scenarios: bug, safe, or nothing."""

    def mitigations(self) -> list[str]:
        """Return the mitigations that are searched, each once."""
        return list(dict.fromkeys(target.mitigation for target in self.targets))

    def to_text(self) -> str:
        """Return the text of the settings' file. Raises MitigationError, FileError."""
        scenarios = list(dict.fromkeys(target.scenario for target in self.targets))
        numbers = {scenario: number for number, scenario in enumerate(scenarios)}
        data = {
            "format": FORMAT,
            "made_by": made_by(self.mitigations()),
            "files": _files(self.mitigations()),
            "engines": self.engines,
            "seed": self.seed,
            "seconds": self.seconds,
            "runs": self.runs,
            "jobs": self.jobs,
            "keep_going": self.keep_going,
            "split": self.schedule_by,
            "hook_seconds": self.hook_seconds,
            "expect_claims": self.expect_claims,
            "corpus": self.corpus,
            "even_runs": self.even_runs,
            "claims": self.claims,
            "scenarios": [scenario.to_data() for scenario in scenarios],
            "targets": [[one.mitigation, numbers[one.scenario], one.memory, one.without] for one in self.targets],
        }
        return json.dumps(data | {"digest": digest_of_data(data)}, indent=1) + "\n"


@dataclass(frozen=True)
class Written:
    """What stands in the file of a campaign's settings.

    `made_by` is what a process must be the same in to go on with it, by name; `files` are digests of the files of the
    user's own mitigations, by the names that the settings have for them.
    """

    text: str
    settings: Settings
    made_by: Mapping[str, str]
    files: Mapping[str, str]


def parse(text: str, path: Path) -> Written:
    """Return the settings in a text; `path` is what errors call it. Runs no code.

    Raises CampaignError, DamagedError.
    """
    try:
        data = json.loads(text, parse_constant=_no_number)
        digest = data.pop("digest", None) if isinstance(data, dict) else None
        wanted = digest_of_data(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(path.parent, f"{path.name} is no JSON") from error
    if isinstance(data, dict) and data.get("format") == 1:
        raise CampaignError(f"{path}: format 1 is not one that this fuzzvm reads; begin a new campaign")
    if not isinstance(data, dict) or digest != wanted:
        raise DamagedError(path.parent, f"{path.name} is not what was written")
    try:
        for key, (right, what) in _RULES.items():
            if not right(data[key]):
                raise _WrongError(f"{key} is not {what}")
        return _from_data(data, text)
    except (KeyError, ScenarioError, _WrongError) as error:
        raise CampaignError(f"{path}: not the settings of a campaign: {error}") from error


class _WrongError(Exception):
    pass


def _no_number(text: str) -> float:
    raise ValueError(text)


def digest_of_data(data: Any) -> str:
    """Return the digest of settings as data, without the key `digest`."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _whole(least: int, most: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _number(most: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and 0 < value <= most


def _or_none(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


def _list_of(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(right, value))


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _texts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(_text(key) and _text(text) for key, text in value.items())


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


MAX_NAME = 4096
"""Characters of a name in the settings: as many as a path may have."""
MAX_SECONDS = 1e9
_CLAIMS = ("bug", "safe", None)
_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: type(value) is int and value == FORMAT, str(FORMAT)),
    "made_by": (_texts_by_name, "a table of texts"),
    "files": (_texts_by_name, "a table of digests"),
    "engines": (lambda value: _list_of(lambda one: one in engines.names())(value) and value, "a list of engines"),
    "seed": (_whole(0), "a number from 0 on"),
    "seconds": (_or_none(_number(MAX_SECONDS)), "a time"),
    "runs": (_or_none(_whole(1)), "a number from 1 on"),
    "jobs": (_whole(1), "a number from 1 on"),
    "keep_going": (_flag, "true or false"),
    "split": (lambda value: value in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
    "hook_seconds": (_number(MAX_SECONDS), "a time"),
    "expect_claims": (_flag, "true or false"),
    "corpus": (_or_none(_text), "a folder"),
    "even_runs": (_whole(1, 1_000_000), "a number from 1 to 1000000"),
    "claims": (
        _list_of(lambda one: isinstance(one, list) and len(one) == 2 and _text(one[0]) and one[1] in _CLAIMS),
        "a list of claims",
    ),
    "scenarios": (_list_of(lambda one: isinstance(one, dict)), "a list of scenarios"),
    "targets": (
        lambda value: _list_of(lambda one: isinstance(one, list) and len(one) == 4)(value) and value,
        "a list of targets",
    ),
}
"""What each value must be, and what that is called."""


def _from_data(data: Mapping[str, Any], text: str) -> Written:
    scenarios = [Scenario.from_data(one) for one in data["scenarios"]]
    settings = Settings(
        targets=tuple(_target(scenarios, *one) for one in data["targets"]),
        engines=tuple(data["engines"]),
        seed=data["seed"],
        seconds=data["seconds"],
        runs=data["runs"],
        jobs=data["jobs"],
        keep_going=data["keep_going"],
        schedule_by=data["split"],
        hook_seconds=data["hook_seconds"],
        expect_claims=data["expect_claims"],
        corpus=data["corpus"],
        even_runs=data["even_runs"],
        claims=tuple((mitigation, claim) for mitigation, claim in data["claims"]),
    )
    return Written(text, settings, data["made_by"], data["files"])


def _target(scenarios: list[Scenario], mitigation: Any, scenario: Any, memory: Any, without: Any) -> Cell:
    if not (_text(mitigation) and _whole(0, len(scenarios) - 1)(scenario) and memory in memory_models.names()):
        raise _WrongError("a target is not a mitigation, a scenario and a memory model")
    if not _list_of(lambda one: one in ordering_points.names())(without):
        raise _WrongError("a target leaves out what is no ordering point")
    return Cell(mitigation, scenarios[scenario], memory, tuple(without))


def made_by(mitigations: list[str]) -> dict[str, str]:
    """Return what a process must be the same in to go on with a campaign, by name; runs the mitigations' files.

    Raises MitigationError.
    """
    found = {"fuzzvm": fuzzvm.__version__, "Python": platform.python_version()}
    return found | {f"mitigation {mitigation}": digest_of(mitigation) for mitigation in mitigations}


def digest_of(mitigation: str) -> str:
    """Return 12 digits that stand for the text of a mitigation's files, wherever they lie. Raises MitigationError."""
    text = b"".join(sorted(sent_files.text_of(file) for file in registry.files_of(mitigation)))
    return hashlib.sha256(text).hexdigest()[:12]


def _files(mitigations: list[str]) -> dict[str, str]:
    """Return the digests of the files that mitigations are named by, by their names. Raises FileError."""
    return {name: digest_of_file(sent_files.current(name)) for name in files_of(mitigations)}


def files_of(mitigations: Sequence[str]) -> list[str]:
    """Return the files that mitigations are named by, each once. Runs no code of theirs."""
    parts = [part for mitigation in mitigations for part in registry.split(mitigation) if registry.is_path(part)]
    return sorted({part.rpartition(":")[0] for part in parts})


def digest_of_file(file: sent_files.SentFile) -> str:
    """Return the digest of a file's text."""
    return hashlib.sha256(file.text).hexdigest()
