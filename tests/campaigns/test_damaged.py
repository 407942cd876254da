"""Damaged campaigns: it is noticed, said, and mended as far as can be."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fuzzvm.campaigns.errors import CampaignError, DamagedError
from fuzzvm.campaigns.guilty import GuiltyPair
from fuzzvm.campaigns.journal import SETTLED, UNSETTLED, FindingRow, Journal, Sums
from fuzzvm.campaigns.recover import recover
from fuzzvm.campaigns.rows import TABLES
from tests.campaigns import damaging
from tests.campaigns.hostile import edit, killed
from tests.cli.forked import Commands

SEARCH = ("-m", "none", "-s", "pmd-promotion", "--memory", "sc", "--jobs", "1", "--schedule-by", "even", "--seed", "3")


@pytest.fixture(scope="module")
def begun(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    assert commands.run("fuzz", *SEARCH, "--runs", "1500", "--campaign", "c", cwd=folder).status == 1
    killed(folder / "c", folder / "killed")
    return folder


def rows(path: Path) -> dict[str, list[object]]:
    """Return what an intact journal says."""
    with closing(Journal(path, only_read=True, still=True)) as journal:
        return {table: journal.connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}


def small_journal(path: Path) -> None:
    with closing(Journal.create(path, '{"seed": 1}\n')) as journal:
        for number in range(30):
            task = journal.begin_task(number % 3, "pct", 100)
            if number % 4:
                journal.end_task(task, Sums(1, 100, 900, 0.5, 7, 1))
            journal.add_pairs(number % 3, {number * 977: 1})
            journal.add_cover(number % 3, [("promotion", number > 20), ("walk", True)])
            journal.say(f"event {number}")
        pair = GuiltyPair("ptdump_pte_entry", "free_table < pmd_free_pte_page")
        journal.add_failing(0, "deadlock", pair, "found by pct, seed 1, task 3", "message", "a.toml", SETTLED)
        journal.add_failing(1, "deadlock", pair, "found by pct, seed 1, task 3", "message", "a.toml", UNSETTLED)
        journal.add_finding(
            FindingRow("none", "deadlock", pair, "0*3 1", "a.toml", "two-walkers", "pct", "message", 1, 0, 5.0)
        )
        journal.sample(3, 4, 5, 6.0)
        journal.commit()


def test_a_bit_that_is_flipped_is_noticed_or_says_nothing(tmp_path: Path) -> None:
    small_journal(tmp_path / "journal.sqlite")
    before = rows(tmp_path / "journal.sqlite")
    data = (tmp_path / "journal.sqlite").read_bytes()
    written = [place for place, byte in enumerate(data) if byte]
    draw = random.Random(1)
    noticed = 0
    for _ in range(250):
        flipped = bytearray(data)
        # most of so small a file is room that nothing is in
        flipped[draw.choice(written)] ^= 1 << draw.randrange(8)
        (tmp_path / "journal.sqlite").write_bytes(flipped)
        try:
            assert rows(tmp_path / "journal.sqlite") == before
        except DamagedError:
            noticed += 1
        except CampaignError as error:
            # SQLite is told that it is a database of a later version, which may only be read
            assert "readonly" in str(error) or "unable to open" in str(error), error
            noticed += 1
    assert noticed > 200


@pytest.mark.parametrize("table", [*TABLES, "seal"])
def test_a_row_that_was_changed_lost_or_added_is_noticed(table: str, tmp_path: Path) -> None:
    """Also where SQLite has nothing to say against it."""
    for number, change in enumerate(("UPDATE {0} SET {1} = {1} || '1'", "DELETE FROM {0}", "INSERT INTO {0} {2}")):
        path = tmp_path / str(number) / "journal.sqlite"
        path.parent.mkdir()
        small_journal(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
            # one column of each row is another; a key is made unlike those that there are
            added = ", ".join(["'7'"] * len(columns))
            connection.execute(change.format(table, columns[-2], f"VALUES ({added})"))
        with pytest.raises(DamagedError):
            Journal(path, only_read=True)


@pytest.mark.product
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("settings.json", "truncated"),
        ("settings.json", "emptied"),
        ("settings.json", "flipped"),
        ("settings.json", "deleted"),
        ("journal.sqlite", "truncated"),
        ("journal.sqlite", "emptied"),
        ("journal.sqlite", "flipped"),
        ("journal.sqlite", "deleted"),
        ("journal.sqlite-wal", "truncated"),
        ("journal.sqlite-wal", "emptied"),
        ("journal.sqlite-wal", "flipped"),
        ("journal.sqlite-wal", "deleted"),
        ("journal.commits", "truncated"),
        ("journal.commits", "deleted"),
        ("findings", "truncated"),
        ("findings", "flipped"),
        ("findings", "deleted"),
    ],
)
def test_damage_is_said_and_recovered(name: str, damage: str, commands: Commands, begun: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(begun / "killed", folder)
    before = commands.run("status", "c", cwd=tmp_path)
    assert before.status == 0 and ", 1500 runs, " in before.out and " 1 findings" in before.out
    path = next((folder / name).iterdir()) if name == "findings" else folder / name
    size = path.stat().st_size
    if damage == "deleted":
        path.unlink()
    elif damage == "flipped":
        data = bytearray(path.read_bytes())
        data[data.find(b"found by") if name == "journal.sqlite" else size // 2] ^= 1
        path.write_bytes(data)
    else:
        os.truncate(path, size // 2 if damage == "truncated" else 0)
    for arguments in (("status", "c"), ("fuzz", "--resume", "c", "--runs", "10")):
        ended = commands.run(*arguments, cwd=tmp_path)
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert ended.err.startswith("fuzzvm: c is damaged: ")
        assert "`fuzzvm campaign recover c` rebuilds the journal" in ended.err
    recovered = commands.run("campaign", "recover", "c", cwd=tmp_path)
    left_out = recovered.status == 1
    # how much is in the log depends on when the journal was written back
    must = name == "findings" or (name, damage) == ("journal.sqlite", "deleted")
    may = must or (name == "journal.sqlite" and damage in ("truncated", "emptied"))
    assert must <= left_out <= may and recovered.status in (0, 1), recovered
    after = commands.run("status", "c", cwd=tmp_path)
    assert after.status == 0 and "its journal was rebuilt" in after.out, after
    if name != "findings":
        # what cannot be had again is there, whatever became of the journal
        assert " 1 findings" in after.out
        assert after.out.partition("\n\n")[2].split("saved: ")[1] == before.out.split("saved: ")[1]
    else:
        assert f"left out: findings/{path.name}: " in recovered.out
    pairs = before.out.split(" pairs, ")[0].rpartition(" ")[2]
    assert f" {pairs} pairs, " in after.out
    if not left_out:
        assert ", 1500 runs, " in after.out
    # a bug that was found is found again, whatever became of it
    resumed = commands.run("fuzz", "--resume", "c", "--runs", "100", "--jobs", "1", cwd=tmp_path)
    assert resumed.status == 1 and "  saved: fuzzvm explain c/findings/none-" in resumed.out, resumed
    with closing(Journal(folder / "journal.sqlite", only_read=True)) as journal:
        assert not journal.open_tasks() and not journal.failing(UNSETTLED)
        # the last task that was begun may be one that the lost log alone had
        assert left_out or journal.value("next_task") in (5, 6)
    assert commands.run("campaign", "recover", "c", cwd=tmp_path).out == "c: nothing is damaged\n"


def test_a_campaign_whose_settings_are_gone_is_not_begun_anew(commands: Commands, begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun / "c", tmp_path / "c")
    (tmp_path / "c" / "settings.json").unlink()
    ended = commands.run("fuzz", *SEARCH, "--runs", "10", "--campaign", "c", cwd=tmp_path)
    assert (ended.status, ended.err) == (2, "fuzzvm: c: not empty, and no campaign\n")
    (tmp_path / "c" / "journal.sqlite").unlink()
    ended = commands.run("campaign", "recover", "c", cwd=tmp_path)
    assert ended.status == 2 and "says any more what was searched (both are gone)" in ended.err
    for path in ("settings.json", "journal.sqlite"):
        (tmp_path / "c" / path).write_text("nothing of it")
    ended = commands.run("campaign", "recover", "c", cwd=tmp_path)
    assert ended.status == 2 and "says any more what was searched" in ended.err
    assert (tmp_path / "c" / "journal.sqlite").read_text() == "nothing of it"
    assert not list((tmp_path / "c").glob("damaged-*"))


def test_what_a_kill_leaves_before_a_campaign_is_begun_is_begun_anew(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for name in ("lock", "journal.sqlite", "journal.sqlite-journal", "journal.commits"):
        (folder / name).write_text("half of it")
    assert commands.run("fuzz", *SEARCH, "--runs", "10", "--campaign", "c", cwd=tmp_path).status in (0, 1)
    assert commands.run("status", "c", cwd=tmp_path).status == 0


@pytest.mark.parametrize("renames", [0, 1, 2, 3, 4])
def test_recover_cut_off_at_any_moment_can_be_done_again(
    renames: int, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(begun / "killed", folder)
    (folder / "journal.commits").unlink()
    real, done = Path.rename, 0

    def rename(path: Path, target: Path) -> Path:
        nonlocal done
        if done == renames:
            # as a kill does: nothing is put back
            os._exit(7)
        done += 1
        return real(path, target)

    child = os.fork()
    if not child:
        monkeypatch.setattr(Path, "rename", rename)
        recover(folder, jobs=1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 7
    recovered = recover(folder, jobs=1)
    assert (recovered.findings, recovered.runs, recovered.left_out) == (1, 1500, [])
    assert recover(folder).damage == ""


def test_what_happened_is_told_again_by_the_runs_that_are_kept(commands: Commands, begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun / "c", tmp_path / "c")

    def happened() -> object:
        ended = commands.run("status", "c", "--json", cwd=tmp_path)
        assert ended.status == 0, ended
        return json.loads(ended.out)["searches"][0]["happened"]

    before = happened()
    assert before == {
        "pmd-promotion, sc": dict.fromkeys(("promotion", "table-freed", "walk", "walked-table-freed"), True)
    }
    edit(tmp_path / "c", "DELETE FROM cover", reseal=False)
    assert commands.run("campaign", "recover", "c", cwd=tmp_path).status == 0
    assert happened() == before


def test_folders_that_are_damaged_at_random(commands: Commands, tmp_path: Path) -> None:
    """`python -m tests.campaigns.damaging 500` is the long version."""
    outcome = damaging.torment(commands, tmp_path, range(1, 11))
    assert outcome.wrong == []
    assert outcome.folders == 10 and len(outcome.ways) > 5
    assert any(what.startswith("recovered") for what in outcome.came_to)
