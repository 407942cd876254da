"""`fuzzvm corpus` as scripts and people see it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus import store
from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.machine.schedule import parse_schedule
from tests.clock import PATIENCE

REGRESSIONS = Path(__file__).resolve().parents[2] / "corpus" / "regressions"
RACE = read(next(REGRESSIONS.glob("none-use-after-free-read-c77cd3c19dbc.toml")))
PART = replace(RACE, origin="found by somebody else")


def fuzzvm(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "fuzzvm", "corpus", *arguments]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, timeout=PATIENCE)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    store.save(RACE, tmp_path / "corpus")
    return tmp_path / "corpus"


def write(case: TestCase, path: Path) -> str:
    path.write_text(store.to_text(case))
    return path.name


def test_add_says_what_became_of_each_file(tmp_path: Path, corpus: Path) -> None:
    files = [
        write(PART, tmp_path / "again.toml"),
        write(replace(RACE, expect=Expectation("safe")), tmp_path / "wrong.toml"),
    ]
    done = fuzzvm("add", "corpus", *files, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    there, refused, summary = done.stdout.splitlines()
    assert there == f"again.toml: is there already, corpus/{RACE.file_name()}"
    assert refused.startswith("wrong.toml: refused, expected safe, got use-after-free-read")
    assert summary == "0 added, 1 there already, 1 refused"
    data = json.loads(fuzzvm("add", "new", *files[:1], "--json", cwd=tmp_path).stdout)
    assert data["added"] == 1 and data["refused"] == 0
    assert data["files"][0]["saved"] == f"new/{PART.file_name()}"


def test_merge_then_check_then_min(tmp_path: Path, corpus: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / PART.file_name()).write_text(store.to_text(PART))
    assert fuzzvm("merge", "corpus", "other", cwd=tmp_path).stdout.endswith("0 added, 1 there already, 0 refused\n")
    assert fuzzvm("check", "corpus", cwd=tmp_path).stdout == ""
    # as git would merge them
    (corpus / PART.file_name()).write_text(store.to_text(PART))
    done = fuzzvm("check", "corpus", cwd=tmp_path)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1 and "the same case as" in done.stdout
    dry = fuzzvm("min", "--dry-run", "corpus", cwd=tmp_path)
    assert dry.returncode == 0 and dry.stdout.endswith("1 kept, 1 would be deleted, 0 not judged\n")
    assert len(list(corpus.iterdir())) == 2
    data = json.loads(fuzzvm("min", "corpus", "--json", cwd=tmp_path).stdout)
    assert len(data["kept"]) == len(data["deleted"]) == 1
    assert [str(path.relative_to(tmp_path)) for path in corpus.iterdir()] == data["kept"]
    assert fuzzvm("check", "corpus", cwd=tmp_path).returncode == 0


def test_min_keeps_and_names_what_it_cannot_judge(tmp_path: Path, corpus: Path) -> None:
    write(replace(RACE, schedule=parse_schedule("7*3")), corpus / "odd.toml")
    done = fuzzvm("min", "corpus", cwd=tmp_path)
    assert done.returncode == 1 and "odd.toml: kept, no longer replays" in done.stdout
    assert (corpus / "odd.toml").exists()


@pytest.mark.product
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "missing"),
        ("min", "missing"),
        ("merge", "corpus", "missing"),
        ("check", "corpus", "-m", "nonesuch"),
        ("add", "corpus"),
        ("sort", "corpus"),
        (),
    ],
)
def test_bad_input_is_exit_status_2(arguments: tuple[str, ...], tmp_path: Path, corpus: Path) -> None:
    done = fuzzvm(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    if arguments:
        assert len(done.stderr.splitlines()) == 1, done.stderr
