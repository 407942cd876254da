"""What can end a campaign."""

from __future__ import annotations

from pathlib import Path

from fuzzvm.files.printable import printable
from fuzzvm.files.shell import word


class CampaignError(Exception):
    """A campaign cannot begin or go on: one line that says why. What its folder holds is whole, and stays."""


class NondeterministicError(CampaignError):
    """A finding does not replay: the mitigation or fuzzvm depends on more than the schedule."""


class DamagedError(CampaignError):
    """What stands in a campaign's folder is not what fuzzvm has written there; `what` says which part, and why."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(
            f"{folder} is damaged: {printable(what)}; `fuzzvm campaign recover {word(str(folder))}` rebuilds the "
            "journal from what is there"
        )
        self.what = what
