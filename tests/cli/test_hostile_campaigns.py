"""Folders of campaigns that mean harm: they delete nothing, write nowhere else, run nothing, and show nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.corpus import store
from fuzzvm.corpus.format import read
from tests.campaigns.hostile import edit, edit_settings, leave_unsettled, rollback_journal
from tests.cli.forked import Commands, Ended

SMALL = ("-s", "pmd-promotion", "-s", "two-walkers", "--memory", "sc")
EVIL = """
from pathlib import Path
Path({ran!r}).touch()
from fuzzvm.mitigations.none import NoMitigation
class Mine(NoMitigation):
    name = "mine"
"""


@pytest.fixture(scope="module")
def begun(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a campaign `c` that has a finding and more failing runs, and with `m`, of a scheme in `mine.py`."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "mine.py").write_text(EVIL.format(ran=str(folder / "it-ran-here")))
    for name, mitigation in (("c", "none"), ("m", "mine.py:Mine")):
        arguments = ("--jobs", "1", "--runs", "800", "--campaign", name)
        ended = commands.run("fuzz", "-m", mitigation, *SMALL, *arguments, cwd=folder)
        assert ended.status == 1, ended
    assert len(list((folder / "c" / "findings").iterdir())) == 1
    leave_unsettled(folder / "c")
    return folder


@pytest.fixture
def home(begun: Path, tmp_path: Path) -> Path:
    """A copy of that, with something that must stay as it is, and code that must not run."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    (tmp_path / "precious.toml").write_text("precious")
    ran = EVIL.format(ran=str(tmp_path / "it-ran"))
    for name in ("mine.py", "evil.py", "json.py", "click.py", "c/evil.py", "x.py:Mine+none+evil.py"):
        (tmp_path / name).write_text(ran)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def outside(home: Path) -> dict[str, object]:
    """Return the files of a folder that are in no campaign, with what is in them."""
    found: dict[str, object] = {}
    for path in home.rglob("*"):
        name = path.relative_to(home)
        if name.parts[0] not in ("c", "m"):
            found[str(name)] = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
    return found


def harmless(commands: Commands, home: Path, *, again: bool = True) -> dict[str, Ended]:
    """Run what may be run on `c`, and `again` after it; return what came of each, when nothing has been harmed."""
    before = outside(home)
    ended = {}
    first = (("status",), ("fuzz", "--resume"), ("campaign", "recover"))
    for words in (*first, *first[:2] * again):
        more = ("--runs", "10", "--jobs", "1") if words[0] == "fuzz" else ()
        done = commands.run(*words, "c", *more, cwd=home)
        name = " ".join(words)
        ended[f"{name} again" if name in ended else name] = done
        assert done.status in (0, 1, 2), (name, done)
        assert "Traceback" not in done.out + done.err, (name, done)
        assert done.out.replace("\n", "").isprintable() and done.err.replace("\n", "").isprintable(), (name, done)
        assert done.status != 2 or done.err.count("\n") == 1, (name, done)
        assert not (home / "it-ran").exists(), name
        assert outside(home) == before, name
    return ended


def refused(ended: dict[str, Ended], why: str) -> None:
    """The folder was refused for that reason, recovered, and then as good as new."""
    assert why in ended["status"].err and why in ended["fuzz --resume"].err, ended
    assert "`fuzzvm campaign recover c`" in ended["status"].err
    assert ended["campaign recover"].status in (0, 1), ended
    if "status again" in ended:
        assert ended["status again"].status == 0 and ended["fuzz --resume again"].status in (0, 1), ended


def test_nothing_is_wrong_with_the_folders_as_they_are(commands: Commands, home: Path) -> None:
    """What is said below of hostile ones would otherwise say nothing."""
    ended = harmless(commands, home)
    assert ended["status"].status == 0 and ended["fuzz --resume"].status == 1
    assert ended["campaign recover"].out == "c: nothing is damaged\n"


# 12: names in a journal are names


@pytest.mark.parametrize(
    ("state", "name"),
    [
        *((state, "{home}/precious.toml") for state in ("settled", "unsettled", "differs")),
        *(("settled", name) for name in ("../../precious.toml", "..", "", "a/b.toml", "x.toml\0")),
    ],
)
def test_a_failing_run_is_named_and_no_path(state: str, name: str, commands: Commands, home: Path) -> None:
    where = "(SELECT min(id) FROM failing)"
    values = (state, name.format(home=home))
    edit(home / "c", (f"UPDATE failing SET state = ?, file = ? WHERE id = {where}", values))
    refused(harmless(commands, home), "the journal has a row of failing that is of no such campaign")


def test_a_finding_is_named_and_no_path(commands: Commands, home: Path) -> None:
    edit(home / "c", ("UPDATE finding SET file = ?", (f"{home}/precious.toml",)))
    refused(harmless(commands, home), "the journal has a row of finding that is of no such campaign")


@pytest.mark.parametrize("name", ["findings", "unsettled", "corpus", "evidence"])
def test_folders_that_are_links_are_not_followed(name: str, commands: Commands, home: Path) -> None:
    inside = home / "c" / name
    if inside.exists():
        shutil.copytree(inside, home / "elsewhere", dirs_exist_ok=True)
        shutil.rmtree(inside)
    (home / "elsewhere" / ".0123456789abcdef.tmp").touch()
    inside.symlink_to(home / "elsewhere")
    refused(harmless(commands, home), f"{name} is a symbolic link, and no folder")


@pytest.mark.product
@pytest.mark.parametrize(
    "name", ["lock", "settings.json", "journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.commits"]
)
@pytest.mark.parametrize("kind", ["a symbolic link", "a pipe (FIFO)", "a folder"])
def test_files_that_are_something_else_are_neither_written_nor_waited_for(
    name: str, kind: str, commands: Commands, home: Path
) -> None:
    path = home / "c" / name
    if path.exists() and kind == "a symbolic link":
        path.rename(home / "elsewhere" / name)
    path.unlink(missing_ok=True)
    if kind == "a symbolic link":
        path.symlink_to(home / "elsewhere" / name)
    elif kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    refused(harmless(commands, home), f"{name} is {kind}, and no file")


def test_a_journal_with_another_name_is_not_written_to(commands: Commands, home: Path) -> None:
    os.link(home / "c" / "journal.sqlite", home / "elsewhere" / "other")
    before = (home / "elsewhere" / "other").read_bytes()
    (home / "elsewhere" / "other").rename(home / "c" / "other")
    refused(harmless(commands, home), "journal.sqlite is a file of another name, too")
    assert (home / "c" / "other").read_bytes() == before


def test_sqlite_deletes_nothing_on_behalf_of_a_rollback_journal(commands: Commands, home: Path) -> None:
    rollback_journal(home / "c" / "journal.sqlite", home / "precious.toml")
    refused(harmless(commands, home), "journal.sqlite-journal does not belong there")


def test_a_folder_outside_is_written_to_only_where_it_is_named(commands: Commands, home: Path) -> None:
    edit_settings(home / "c", lambda data: data.update(corpus=str(home / "elsewhere")))
    ended = harmless(commands, home)
    assert f"say so again, with --corpus {home / 'elsewhere'}" in ended["fuzz --resume"].err
    resumed = ("fuzz", "--resume", "c", "--runs", "10", "--jobs", "1", "--corpus", "mine")
    assert commands.run(*resumed, cwd=home).status == 1


# 13: a folder runs nothing


def name_evil(data: dict[str, Any], name: str = "./evil.py:Mine") -> None:
    data["targets"] = [[name, *rest] for _, *rest in data["targets"]]
    data["claims"] = []


@pytest.mark.parametrize(
    "name", ["./evil.py:Mine", "evil.py:Mine+none", "none+evil.py:Mine", "{home}/evil.py:Mine", "c/evil.py:Mine"]
)
def test_settings_that_name_code_run_none(name: str, commands: Commands, home: Path) -> None:
    spec = name.format(home=home)
    edit_settings(home / "c", lambda data: name_evil(data, spec))
    edit(home / "c", ("UPDATE finding SET mitigation = ?", (spec,)), "DELETE FROM failing WHERE state = 'unsettled'")
    error = harmless(commands, home)["fuzz --resume"].err
    assert "is code that runs only where you name it: add --mitigation" in error


@pytest.mark.parametrize("folder", ["unsettled", "findings", "corpus"])
def test_test_cases_that_name_code_run_none(folder: str, commands: Commands, home: Path) -> None:
    """The file has the name of its content, and the journal's row names the file."""
    inside = home / "c" / folder
    old = next(inside.iterdir())
    path, _ = store.save(replace(read(old), mitigation="./evil.py:Mine"), inside)
    old.unlink()
    for table in ("failing", "finding"):
        edit(home / "c", (f"UPDATE {table} SET file = ? WHERE file = ?", (path.name, old.name)))
    ended = harmless(commands, home)
    if folder != "corpus":
        refused(ended, f"{folder}/{path.name} is not the")
        assert f"{folder}/{path.name}: it is of something that this campaign does not search" in (
            ended["campaign recover"].out
        )


def test_rows_that_name_code_run_none(commands: Commands, home: Path) -> None:
    edit(home / "c", "UPDATE finding SET mitigation = './evil.py:Mine'")
    refused(harmless(commands, home), "the journal has a row of finding")
    edit(home / "c", "INSERT INTO open_task VALUES (1, 0, '../../evil', 10, 0)")
    refused(harmless(commands, home), "the journal has a row of open_task")


def test_code_runs_where_the_user_names_it(commands: Commands, home: Path, begun: Path) -> None:
    """And only the text that the campaign was begun with."""
    text = (begun / "mine.py").read_text()
    resume = ("fuzz", "--resume", "m", "--runs", "10", "--jobs", "1")

    def error(*arguments: str) -> str:
        ended = commands.run(*resume, *arguments, cwd=home)
        assert ended.status == 2 and ended.err.count("\n") == 1, ended
        assert not (home / "it-ran").exists() and not (begun / "it-ran-here").exists()
        return ended.err

    (begun / "it-ran-here").unlink()
    assert "the campaign runs mine.py:Mine, which is code" in error()
    assert "begun with another mitigation mine.py:Mine" in error("-m", "mine.py:Mine")
    assert "the campaign runs mine.py:Mine, which is code" in error("-m", "evil.py:Mine")
    (home / "elsewhere" / "scheme.py").write_text(text)
    assert "the campaign does not run none" in error("-m", "elsewhere/scheme.py:Mine", "-m", "none")
    assert "the campaign runs mine.py:Mine, which is code" in error("-m", "elsewhere/scheme.py:Other")
    # the file in its old place is another one, and is not run by any process
    ended = commands.run(*resume, "-m", "elsewhere/scheme.py:Mine", cwd=home)
    assert ended.status == 1, ended
    assert (begun / "it-ran-here").exists() and not (home / "it-ran").exists()
    (home / "mine.py").write_text(text)
    assert commands.run(*resume, "-m", "mine.py:Mine", cwd=home).status == 1
    (home / "m" / "journal.sqlite").unlink()
    assert "is code that runs only where" in commands.run("campaign", "recover", "m", cwd=home).err
    assert commands.run("campaign", "recover", "m", "-m", "mine.py:Mine", cwd=home).status == 1


def test_a_name_that_stands_for_another_file_here_is_refused(commands: Commands, home: Path) -> None:
    """`x.py:Mine+none+evil.py:Mine` is three schemes, or one where there is a file with that name."""
    mine = (home / "mine.py").read_text()
    stack = "x.py:Mine+none+evil.py:Mine"
    digest = hashlib.sha256(mine.encode()).hexdigest()
    edit_settings(home / "c", lambda data: name_evil(data, stack))
    edit_settings(home / "c", lambda data: data.update(files={"x.py": digest, "evil.py": digest}))
    edit(home / "c", ("UPDATE finding SET mitigation = ?", (stack,)), "DELETE FROM failing WHERE state = 'unsettled'")
    given = "elsewhere/a.py:Mine+none+elsewhere/b.py:Mine"
    for name in ("a", "b"):
        (home / "elsewhere" / f"{name}.py").write_text(mine)
    ended = commands.run("fuzz", "--resume", "c", "-m", given, cwd=home)
    assert ended.status == 2 and "is the name of another file here" in ended.err, ended
    assert not (home / "it-ran").exists()


def test_bytecode_beside_a_mitigation_is_not_run(commands: Commands, home: Path) -> None:
    """It can be of another text, and be marked as not to be checked against it."""
    import importlib.util
    import py_compile

    hostile = home / "hostile.py"
    hostile.write_text((home / "evil.py").read_text())
    mine = home / "harmless.py"
    mine.write_text("from fuzzvm.mitigations.none import NoMitigation\nclass Mine(NoMitigation):\n    name = 'mine'\n")
    compiled = importlib.util.cache_from_source(str(mine))
    py_compile.compile(
        str(hostile), cfile=compiled, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    ended = commands.run("verify", "-m", "harmless.py:Mine", *SMALL, cwd=home)
    assert ended.status is not None and not (home / "it-ran").exists(), ended


def test_no_module_of_the_current_folder_is_run(commands: Commands, home: Path) -> None:
    """By the process that replays a finding: `python -m` looks in the current folder first."""
    arguments = ("--jobs", "1", "--runs", "600", "--campaign", "new")
    assert commands.run("fuzz", "-m", "none", *SMALL, *arguments, cwd=home).status == 1
    assert not (home / "it-ran").exists()


# 15: what is shown


@pytest.mark.product
@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("finding", column) for column in ("scenario", "engine", "message", "failed", "freed", "schedule")),
        *(("failing", column) for column in ("found", "message", "failed", "freed")),
        ("event", "what"),
    ],
)
def test_what_a_terminal_would_obey_is_refused(table: str, column: str, commands: Commands, home: Path) -> None:
    edit(home / "c", (f"UPDATE {table} SET {column} = {column} || ?", ("\x1b]0;owned\x07\x1b[2J",)))
    refused(harmless(commands, home), f"the journal has a row of {table} that is of no such campaign")


@pytest.mark.parametrize("column", ["error", "mitigation", "file"])
def test_names_that_a_terminal_would_obey_are_none(column: str, commands: Commands, home: Path) -> None:
    edit(home / "c", (f"UPDATE finding SET {column} = ?", ("\x1b[2J",)))
    refused(harmless(commands, home), "the journal has a row of finding that is of no such campaign")


def test_a_suggested_command_is_quoted(commands: Commands, home: Path) -> None:
    spec = "$(touch it-ran).py:Mine"
    edit_settings(home / "c", lambda data: name_evil(data, spec))
    (case,) = (home / "c" / "findings").iterdir()
    path, _ = store.save(replace(read(case), mitigation=spec), case.parent)
    edit(home / "c", ("UPDATE finding SET mitigation = ?, file = ?", (spec, path.name)), "DELETE FROM failing")
    shown = commands.run("status", "c", cwd=home)
    assert shown.status == 0 and f"--mitigation '{spec}'" in shown.out, shown
    assert f"--mitigation '{spec}'" in commands.run("fuzz", "--resume", "c", cwd=home).err


# what a folder may ask for


@pytest.mark.product
@pytest.mark.parametrize(
    "change",
    [
        {"jobs": 10**6},
        {"jobs": True},
        {"hook_seconds": 1e300},
        {"hook_seconds": -1},
        {"seconds": "1"},
        {"runs": 1.5},
        {"even_runs": 10**12},
        {"engines": ["../../evil"]},
        {"engines": []},
        {"seed": None},
        {"split": ["even"]},
        {"targets": []},
        {"targets": [["none", -1, "sc", []]]},
        {"targets": [["none", 0, ["sc"], []]]},
        {"targets": [["none", 0, "sc", ["no such point"]]]},
        {"targets": [["none\x1b[2J", 0, "sc", []]]},
        {"scenarios": [{}]},
        {"scenarios": [{"cpus": 10**400}]},
        {"claims": {"none": "bug"}},
        {"made_by": None},
        {"files": {"a": 1}},
        {"format": 3},
        {"format": True},
    ],
    ids=str,
)
def test_settings_that_ask_for_what_none_may(change: dict[str, Any], commands: Commands, home: Path) -> None:
    edit_settings(home / "c", lambda data: data.update(change))
    # without --jobs, which would say how many processes there are to be
    ended = commands.run("fuzz", "--resume", "c", cwd=home)
    assert ended.status == 2 and ended.err.count("\n") == 1, ended
    harmless(commands, home, again=False)


@pytest.mark.product
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE failing SET target = 10000 + id",
        "UPDATE done SET target = -1",
        "UPDATE done SET engine = 'no such' WHERE engine = (SELECT min(engine) FROM done)",
        "UPDATE done SET runs = -5",
        "UPDATE done SET runs = 'many'",
        "UPDATE done SET cpu_seconds = 9e999",
        "UPDATE pair SET target = 77 WHERE pair = (SELECT min(pair) FROM pair)",
        "UPDATE cover SET target = 77 WHERE target = (SELECT min(target) FROM cover)",
        "UPDATE cover SET point = 'no-such' WHERE point = 'walk'",
        "UPDATE cover SET met = 7",
        "UPDATE campaign SET value = 1e300 WHERE name = 'last_new'",
        "UPDATE campaign SET value = -1 WHERE name = 'seconds'",
        "UPDATE campaign SET name = 'other' WHERE name = 'begun'",
        "INSERT INTO open_task VALUES (1, 0, 'pct', 1000000000000, 0)",
        "INSERT INTO open_task VALUES (1000000, 0, 'pct', 10, 0)",
        "UPDATE finding SET claimed_safe = 7",
        "UPDATE finding SET error = 'no-such-error'",
        "UPDATE event SET what = x'ff'",
        "UPDATE sample SET runs = -1",
        "DELETE FROM finding",
        "DELETE FROM settings",
        "UPDATE settings SET text = '{}'",
        "UPDATE seal SET commits = -1",
        "DELETE FROM seal",
        "CREATE TABLE more (x)",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TRIGGER more AFTER UPDATE ON seal BEGIN DELETE FROM done; END",
        "DROP TABLE event",
        "ALTER TABLE event ADD COLUMN more",
    ],
)
def test_rows_that_no_campaign_has(statement: str, commands: Commands, home: Path) -> None:
    shape = statement.split()[0] in ("CREATE", "DROP", "ALTER") or "seal" in statement
    edit(home / "c", statement, reseal=not shape)
    refused(harmless(commands, home, again=False), "c is damaged: ")
