"""The file of a checkpoint: whole or as it was, of one process at a time, and checked before anything is made of it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from fuzzvm.exhaustive.checkpoint.errors import CheckpointError, DamagedError
from fuzzvm.exhaustive.checkpoint.store import Store
from fuzzvm.files.errors import FileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a checkpoint of a few parts."""
    path = tmp_path / "run"
    store = Store.create(path)
    store.about = {"of": "a test"}
    store.append("states", b"one" * 2000)
    store.append("states", b"two" * 2000)
    store.replace("facts", b"{}")
    store.commit()
    store.close()
    return path


def test_what_was_committed_is_read_and_nothing_else(path: Path) -> None:
    store = Store.open(path)
    store.append("states", b"three")
    store.replace("facts", b"[]")
    store.about = {}
    store.close()
    store = Store.open(path)
    assert (store.about, store.parts, store.read("facts")) == ({"of": "a test"}, ["facts", "states"], b"{}")
    assert list(store.chunks("states")) == [b"one" * 2000, b"two" * 2000]
    store.roll_back()
    store.append("states", b"three")
    store.commit()
    store.close()
    assert list(Store.open(path).chunks("states"))[2:] == [b"three"]


def test_a_process_that_dies_in_the_middle_leaves_the_last_commit(path: Path) -> None:
    child = os.fork()
    if not child:
        store = Store.open(path)
        store.replace("states", b"x" * 10_000_000)
        # so that what is written is in the file, and not in the process alone
        store._connection.execute("PRAGMA cache_spill=1")
        store.append("states", b"y" * 10_000_000)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store = Store.open(path)
    assert store.read("states") == b"one" * 2000 + b"two" * 2000
    store.close()


def test_one_process_has_a_checkpoint_at_a_time(path: Path) -> None:
    store = Store.open(path)
    with pytest.raises(FileError, match="another process has this checkpoint open"):
        Store.open(path)
    store.commit()
    with pytest.raises(FileError, match="another process has this checkpoint open"):
        Store.open(path)
    store.close()
    Store.open(path).close()


def test_a_new_checkpoint_takes_no_place_of_another_file(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileError, match="there already"):
        Store.create(path)
    assert path.read_bytes() == before
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="there already"):
        Store.create(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(FileError, match="No such file"):
        Store.create(tmp_path / "missing" / "run")


@pytest.mark.always
def test_damage_anywhere_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    good = {"of": "a test"}
    refused = 0
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            store = Store.open(path)
        except (DamagedError, FileError):
            refused += 1
            continue
        # what no page uses, and SQLite's own counters
        assert (store.about, store.read("facts")) == (good, b"{}"), at
        assert store.read("states") == b"one" * 2000 + b"two" * 2000, at
        store.close()
    assert refused > 300


@pytest.mark.parametrize("left", [0, 1, 100, 4096, 10_000])
def test_a_file_that_is_cut_off_is_refused(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DamagedError):
        Store.open(path)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM part WHERE name = 'states' AND number = 1",
        "DELETE FROM part WHERE name = 'facts'",
        "INSERT INTO part VALUES ('more', 0, 'text', 'text')",
        "UPDATE part SET data = x'5b5d' WHERE name = 'facts'",
        "UPDATE about SET text = '{}'",
        "DELETE FROM seal",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TRIGGER more AFTER DELETE ON part BEGIN DELETE FROM about; END",
    ],
)
def test_what_others_have_written_is_refused(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(DamagedError):
        Store.open(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, " * 1000)
    (tmp_path / "empty").touch()
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE x (y)").connection.close()
    os.mkfifo(tmp_path / "pipe")
    for name in ("text", "empty", "other", "pipe", "missing", "."):
        with pytest.raises((CheckpointError, FileError)):
            Store.open(tmp_path / name)


def test_a_full_disk_leaves_the_last_commit(path: Path) -> None:
    store = Store.open(path)
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(FileError, match="full"):
        for _ in range(100):
            store.append("states", b"x" * 100_000)
            store.commit()
    store.roll_back()
    store.append("states", b"three")
    store.commit()
    store.close()
    assert Store.open(path).read("states") == b"one" * 2000 + b"two" * 2000 + b"three"
