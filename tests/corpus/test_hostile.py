"""Corpus files that mean harm: they are data, which runs nothing and lies nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus import care, store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import parse, read
from fuzzvm.corpus.replay import replay
from fuzzvm.machine.schedule import parse_schedule
from fuzzvm.mitigations.registry import MitigationError
from fuzzvm.scenario.calls import parse_call
from fuzzvm.scenario.errors import ScenarioError

ROOT = Path(__file__).resolve().parents[2]
RACE = read(sorted((ROOT / "corpus" / "regressions").glob("none-use-after-free-read-*.toml"))[0])
WALK = "cat_kernel_page_tables()"
EVIL = """
from pathlib import Path
Path(__file__).with_name("it-ran").touch()
from fuzzvm.mitigations.none import NoMitigation
class Evil(NoMitigation):
    name = "evil"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a corpus that names the code beside it, alone and in a stack."""
    (tmp_path / "evil.py").write_text(EVIL)
    for spec in ("./evil.py:Evil", "evil.py:Evil+none", f"{tmp_path}/evil.py:Evil"):
        store.save(replace(RACE, mitigation=spec), tmp_path / "corpus")
    assert len(care.files(tmp_path / "corpus")) == 3
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["replay", "corpus"],
        ["explain", "FILE"],
        ["explain", "FILE", "--html", "page.html"],
        ["minimize", "FILE"],
        ["export", "FILE", "--to", "litmus"],
        ["corpus", "check", "corpus"],
        ["corpus", "min", "corpus"],
        ["corpus", "add", "other", "FILE"],
        ["corpus", "merge", "other", "corpus"],
    ],
    ids=" ".join,
)
def test_no_command_runs_what_a_file_names(command: list[str], folder: Path) -> None:
    file = str(care.files(folder / "corpus")[0])
    ran = subprocess.run(
        [sys.executable, "-m", "fuzzvm", *(file if word == "FILE" else word for word in command)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == (0 if "merge" in command else 1 if command[0] == "corpus" else 2), ran.stderr
    assert not (folder / "it-ran").exists()
    assert "Traceback" not in ran.stderr


def test_pytest_runs_nothing_that_a_file_names(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nfuzzvm_corpora = corpus\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "fuzzvm.pytest_plugin", "-p", "no:cacheprovider", "corpus"],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and "3 failed" in ran.stdout, ran.stdout
    assert not (folder / "it-ran").exists()


def test_it_runs_where_the_user_names_it(folder: Path) -> None:
    """The test above would pass as well if nothing could run."""
    ran = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "corpus", "check", "corpus", "-m", "./evil.py:Evil"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "it-ran").exists()
    assert ran.returncode == 1 and len(ran.stdout.splitlines()) == 2, ran.stdout + ran.stderr


@pytest.mark.parametrize("name", ["../../up", "/tmp/absolute", "..", "a/../../b", "C:\\up", "\u2025/x", "." * 300, ""])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    corpus = tmp_path / "deep" / "corpus"
    for case in (replace(RACE, mitigation=name), replace(RACE, scenario=replace(RACE.scenario, name=name))):
        path, new = store.save(case, corpus)
        assert new and path.parent == corpus
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in corpus.parent.iterdir()] == ["corpus"]


def test_a_mitigation_of_any_length_has_a_name_that_a_file_can_have(tmp_path: Path) -> None:
    path, _ = store.save(replace(RACE, mitigation="a" * 5000), tmp_path)
    assert len(path.name) < 200 and read(path).mitigation == "a" * 5000


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / RACE.file_name()).symlink_to(outside)
    path, new = store.save(RACE, corpus)
    assert new and not path.is_symlink() and not outside.exists()


def test_links_are_not_followed_out_of_a_folder(tmp_path: Path) -> None:
    secret, theirs = tmp_path / "secret", tmp_path / "theirs"
    store.save(RACE, secret)
    theirs.mkdir()
    (theirs / "link.toml").symlink_to(secret / RACE.file_name())
    (theirs / "deep").symlink_to(secret)
    (theirs / "loop").symlink_to(theirs)
    (merged,) = care.merge(theirs, tmp_path / "ours")
    assert merged.saved is None and "link" in merged.problem
    assert care.files(theirs) == []
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("key", ["origin", "mitigation", "function", "name", "summary"])
@pytest.mark.parametrize("text", ["\\u001b[2J", "a\\nb", "\\u202e", "\\u0000"])
def test_what_a_terminal_obeys_is_refused(key: str, text: str) -> None:
    head, table, rest = store.to_text(replace(RACE, origin="x")).partition("[scenario]\n")
    lines = [line for line in (head + table + rest).splitlines() if not line.startswith(f"{key} = ")]
    place = {"function": "[expect]", "name": "[scenario]", "summary": "[scenario]"}.get(key, "format = 1")
    at = lines.index(place) + 1
    lines.insert(at, f'{key} = "{text}"')
    with pytest.raises(CorpusError, match=f"{key} has a character that cannot be printed"):
        parse("\n".join(lines))


def test_a_step_of_many_choices_is_written_so_that_it_can_be_read() -> None:
    case = replace(RACE, schedule=parse_schedule("0.1" + ".1" * 200 + " 1*3"))
    assert parse(store.to_text(case)) == case


def test_a_setup_cannot_ask_for_an_endless_run() -> None:
    """63 walks over 16,000 pages would take 8 seconds."""
    calls = tuple(map(parse_call, ["vmap(page=0, nr_pages=16000, max_page_shift='pte')", *[WALK] * 63]))
    scenario = replace(RACE.scenario, arch="arm64", page_size="4K", levels=3, fanout=512, setup=calls)
    with pytest.raises(ScenarioError, match="takes more than"):
        replay(parse(store.to_text(replace(RACE, scenario=scenario))))


def test_a_mitigation_that_is_not_given_is_an_error_that_says_how(folder: Path) -> None:
    with pytest.raises(MitigationError, match="runs only where --mitigation"):
        replay(read(care.files(folder / "corpus")[0]))
