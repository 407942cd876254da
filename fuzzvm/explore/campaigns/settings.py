"""What a campaign is about, as it stands in its folder from the first moment on and never changes."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzzvm
from fuzzvm.explore.campaigns.errors import CampaignError
from fuzzvm.explore.campaigns.tasks import Target
from fuzzvm.explore.campaigns.watchdog import files_of
from fuzzvm.mitigations import sent_files
from fuzzvm.scenario.scenario import Scenario

FORMAT = 1
PAYS = "pays"
EVEN = "even"
SPLITS = (PAYS, EVEN)


@dataclass(frozen=True)
class Settings:
    """What is searched, by what, from which seed, and for how long.

    `seconds` and `runs` are the budget of the campaign as a whole, over all its sittings. `even_runs` is how many runs
    a task has where the split is even. `corpus` is a folder that gets each finding as well, or None.
    """

    targets: tuple[Target, ...]
    engines: tuple[str, ...]
    seed: int
    seconds: float | None
    runs: int | None
    jobs: int
    keep_going: bool
    split: str
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
        """Return the text of the settings' file. Raises MitigationError."""
        scenarios = list(dict.fromkeys(target.scenario for target in self.targets))
        numbers = {scenario: number for number, scenario in enumerate(scenarios)}
        data = {
            "format": FORMAT,
            "made_by": _made_by(self.mitigations()),
            "engines": self.engines,
            "seed": self.seed,
            "seconds": self.seconds,
            "runs": self.runs,
            "jobs": self.jobs,
            "keep_going": self.keep_going,
            "split": self.split,
            "hook_seconds": self.hook_seconds,
            "expect_claims": self.expect_claims,
            "corpus": self.corpus,
            "even_runs": self.even_runs,
            "claims": self.claims,
            "scenarios": [scenario.to_data() for scenario in scenarios],
            "targets": [[one.mitigation, numbers[one.scenario], one.memory, one.without] for one in self.targets],
        }
        return json.dumps(data, indent=1) + "\n"


def parse(text: str, path: Path, *, to_run: bool) -> Settings:
    """Return the settings in a text; `path` is what errors call it. Raises CampaignError, MitigationError.

    To run it, a campaign asks for the fuzzvm, the Python and the mitigations that it was begun with: its coverage and
    its seeds mean nothing to others. Otherwise no code of a mitigation is looked for.
    """
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise CampaignError(f"{path}: format {data['format']} is not one that this fuzzvm reads")
        settings = _from_data(data)
        then = data["made_by"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CampaignError(f"{path}: not the settings of a campaign: {error!r}") from error
    for what, now in _made_by(settings.mitigations()).items() if to_run else ():
        if then.get(what) != now:
            raise CampaignError(
                f"{path}: the campaign was begun with another {what} ({then.get(what)}, now {now}); begin a new one"
            )
    return settings


def _from_data(data: Mapping[str, Any]) -> Settings:
    scenarios = [Scenario.from_data(one) for one in data["scenarios"]]
    return Settings(
        targets=tuple(
            Target(mitigation, scenarios[scenario], memory, tuple(without))
            for mitigation, scenario, memory, without in data["targets"]
        ),
        engines=tuple(data["engines"]),
        seed=data["seed"],
        seconds=data["seconds"],
        runs=data["runs"],
        jobs=data["jobs"],
        keep_going=data["keep_going"],
        split=data["split"],
        hook_seconds=data["hook_seconds"],
        expect_claims=data["expect_claims"],
        corpus=data["corpus"],
        even_runs=data["even_runs"],
        claims=tuple((mitigation, claim) for mitigation, claim in data["claims"]),
    )


def _made_by(mitigations: list[str]) -> dict[str, str]:
    made_by = {"fuzzvm": fuzzvm.__version__, "Python": platform.python_version()}
    return made_by | {f"mitigation {mitigation}": digest_of(mitigation) for mitigation in mitigations}


def digest_of(mitigation: str) -> str:
    """Return 12 digits that stand for the text of a mitigation's files. Raises MitigationError."""
    text = b"".join(sent_files.text_of(file) for file in sorted(files_of(mitigation)))
    return hashlib.sha256(text).hexdigest()[:12]
