"""The folder of a corpus: whole files or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.corpus import store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.machine.schedule import parse_schedule
from fuzzvm.scenario import shipped

CASE = TestCase(shipped.get("pmd-promotion"), "none", "sc", parse_schedule("1*4 0"), Expectation("safe"))


def test_saved_once(tmp_path: Path) -> None:
    path, new = store.save(CASE, tmp_path / "deep" / "corpus")
    assert new
    assert read(path) == CASE
    assert store.save(CASE, tmp_path / "deep" / "corpus") == (path, False)
    assert [file.name for file in path.parent.iterdir()] == [CASE.file_name()]


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CorpusError, match="No space left on device"):
        store.save(CASE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    place = tmp_path / "corpus"
    place.write_text("not a folder")
    with pytest.raises(CorpusError):
        store.check_writable(place)
    with pytest.raises(CorpusError):
        store.save(CASE, place)


def test_find(tmp_path: Path) -> None:
    path, _ = store.save(CASE, tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("no case")
    assert list(store.find([tmp_path, path])) == [path, path]
    with pytest.raises(CorpusError, match="no such file"):
        list(store.find([tmp_path / "missing"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no test case"):
        list(store.find([tmp_path / "empty"]))
