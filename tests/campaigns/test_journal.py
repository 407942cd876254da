"""The journal: what was committed holds, what was not is gone, and nothing is counted twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fuzzvm.campaigns.errors import CampaignError, DamagedError
from fuzzvm.campaigns.guilty import GuiltyPair
from fuzzvm.campaigns.journal import SETTLED, UNSETTLED, FindingRow, Journal, Sums


def test_what_was_committed_holds_and_what_was_not_is_gone(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", "{}")
    first = journal.begin_task(0, "pct", 100)
    journal.commit()
    second = journal.begin_task(1, "pos", 50)
    assert (first.number, second.number) == (1, 2)
    journal.close()
    journal = Journal(tmp_path / "j")
    assert journal.open_tasks() == [first]
    # its number was never known to hold, and is given again
    assert journal.begin_task(2, "urw", 10).number == 2
    journal.end_task(first, Sums(1, 100, 900, 0.5, 7, 1))
    with pytest.raises(ValueError, match="task 1 is not open"):
        journal.end_task(first, Sums(1, 100, 900, 0.5, 7, 1))
    third = journal.begin_task(0, "pct", 20)
    journal.end_task(third, Sums(1, 20, 100, 0.25, 0, 0))
    journal.commit()
    journal.close()
    journal = Journal(tmp_path / "j", only_read=True)
    assert journal.sums() == {(0, "pct"): Sums(2, 120, 1000, 0.75, 7, 1)}
    assert journal.runs() == 120
    assert [task.number for task in journal.open_tasks()] == [2]
    journal.close()


def test_findings_are_the_same_by_error_pair_and_schedule(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", "{}")
    pair = GuiltyPair("ptdump_pte_entry", "free_table < pmd_free_pte_page")

    def finding(schedule: str, file: str, pair: GuiltyPair = pair) -> FindingRow:
        return FindingRow("none", "use-after-free-read", pair, schedule, file, "s", "pct", "", 1, 0, 1.0)

    assert journal.add_finding(finding("0*3 1", "a.toml"))
    assert not journal.add_finding(finding("0*3 1", "b.toml"))
    assert journal.add_finding(finding("0*4 1", "c.toml"))
    assert journal.add_finding(finding("0*3 1", "d.toml", GuiltyPair("ptdump_pte_entry", "rcu_do_batch")))
    journal.add_failing(3, "deadlock", GuiltyPair("", ""), "found by pct", "stuck", "e.toml")
    (row,) = journal.failing(UNSETTLED)
    journal.settle(row.id, SETTLED)
    journal.commit()
    assert [one.file for one in journal.findings()] == ["a.toml", "c.toml", "d.toml"]
    assert journal.findings()[0] == finding("0*3 1", "a.toml")
    assert journal.failing(UNSETTLED) == []
    assert [one.file for one in journal.failing(SETTLED)] == ["e.toml"]
    journal.close()


def test_there_is_none_where_there_is_no_file(tmp_path: Path) -> None:
    for only_read in (False, True):
        with pytest.raises(DamagedError, match="j is missing"):
            Journal(tmp_path / "j", only_read=only_read)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "j").touch()
    with pytest.raises(DamagedError, match="has not the tables of a journal"):
        Journal(tmp_path / "j")


def test_one_that_says_no_format_and_has_other_tables_is_damaged(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "j")) as half:
        half.execute("CREATE TABLE campaign (name TEXT PRIMARY KEY, value REAL NOT NULL, digest INTEGER NOT NULL)")
        half.commit()
    with pytest.raises(DamagedError, match="has not the tables of a journal"):
        Journal(tmp_path / "j")


def test_one_of_another_format_is_not_called_damaged(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "j")) as older:
        older.execute("CREATE TABLE campaign (name TEXT PRIMARY KEY, value REAL NOT NULL, digest INTEGER NOT NULL)")
        older.execute("INSERT INTO campaign VALUES ('format', 2, 0)")
        older.commit()
    with pytest.raises(CampaignError, match="j: format 2 is not one that this fuzzvm reads") as raised:
        Journal(tmp_path / "j")
    assert not isinstance(raised.value, DamagedError)
