"""The project's own litmus tests against their table of expectations, each with its source."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fuzzvm import litmus
from fuzzvm.litmus.herd_output import state_lines

CORPUS = Path(__file__).parents[2] / "corpus" / "litmus"
EXPECTED = tomllib.loads((CORPUS / "expected.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_observation(name: str) -> None:
    row = EXPECTED[name]
    result = litmus.run((CORPUS / name).read_text(encoding="utf-8"), name)
    assert result.observation == row["observation"], "\n".join(state_lines(result))
    assert not result.cut
    if "states" in row:
        assert state_lines(result) == row["states"]


def test_every_file_has_a_row() -> None:
    assert {str(path.relative_to(CORPUS)) for path in CORPUS.rglob("*.litmus")} == set(EXPECTED)


def test_every_row_names_its_source() -> None:
    assert all(row["source"] for row in EXPECTED.values())
