"""A campaign whose processes are killed at random: a few times here, and as often as FUZZVM_KILLS says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.campaigns.killing import promises, torment

KILLS = int(os.environ.get("FUZZVM_KILLS", "10"))
RUNS = 2_000 * KILLS
"""So many that a campaign is not over before it has been killed often."""


@pytest.mark.slow
def test_no_kill_loses_repeats_or_damages_anything(tmp_path: Path) -> None:
    arguments = ("-m", "none", "-s", "pmd-promotion", "--memory", "sc", "--jobs", "2", "--keep-going")
    outcome = torment(tmp_path / "c", KILLS, 3, RUNS, *arguments)
    assert outcome.wrong == []
    assert outcome.of_parent + outcome.of_workers > 0
    assert outcome.sittings > 1
    # what looks for broken promises finds them
    (finding, *_) = (tmp_path / "c" / "findings").iterdir()
    finding.unlink()
    (tmp_path / "c" / "corpus" / ".half.tmp").touch()
    assert len(promises(tmp_path / "c", RUNS - 1, {"reported-once.toml"})) == 4
