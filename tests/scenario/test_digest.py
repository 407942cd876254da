"""fuzzvm.scenario.digest: what makes a task another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.mitigations.errors import MitigationError
from fuzzvm.scenario import digest, shipped
from fuzzvm.scenario.digest import task_digest

PROMOTION = shipped.get("pmd-promotion")


def test_each_part_of_a_task_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        task_digest(PROMOTION, "none", "sc"),
        task_digest(PROMOTION, "static-key", "sc"),
        task_digest(PROMOTION, "none", "tso"),
        task_digest(PROMOTION, "none", "sc", ("free-lock",)),
        task_digest(replace(PROMOTION, lazy_mmu=True), "none", "sc"),
    ]
    assert made[0] == task_digest(PROMOTION, "none", "sc")
    monkeypatch.setattr(digest, "code_digest", lambda: "another")
    assert len({*made, task_digest(PROMOTION, "none", "sc")}) == 6


def test_of_a_file_its_text_counts_and_not_where_it_lies(tmp_path: Path) -> None:
    for name, text in (("one", "x = 1\n"), ("two", "x = 1\n"), ("three", "x = 2\n")):
        (tmp_path / f"{name}.py").write_text(text)
    one, two, three = (task_digest(PROMOTION, f"{tmp_path / name}.py:A", "sc") for name in ("one", "two", "three"))
    assert one == two != three
    assert one != task_digest(PROMOTION, f"{tmp_path / 'one'}.py:B", "sc")


def test_without_the_file_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(MitigationError, match="no such file"):
        task_digest(PROMOTION, f"{tmp_path / 'none'}.py:A", "sc")
