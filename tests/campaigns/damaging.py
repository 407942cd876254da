"""Damages folders of campaigns at random, runs every command on them that takes one, and looks at what came of it.

`python -m tests.campaigns.damaging 500 [SEED]` is the long version; the suite runs a short one.

Each folder is a copy of one of four campaigns (finished, killed in the middle of a sitting, of a mitigation of the
user's own, never searched), damaged in one to three of the ways in `WAYS`. What must hold, whatever the damage is in
`damage`'s docstring.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzvm.corpus import store
from fuzzvm.corpus.format import read
from tests.campaigns.hostile import edit, edit_settings, killed, leave_unsettled, rollback_journal
from tests.cli.forked import Commands, Ended

SEARCH = ("-s", "pmd-promotion", "-s", "two-walkers", "--memory", "sc", "--jobs", "1", "--runs", "600")
CANARY = """
from pathlib import Path
Path({ran!r}).touch()
from fuzzvm.mitigations.none import NoMitigation
class Mine(NoMitigation):
    name = "mine"
"""
VOLATILE = ("running", "seconds_since_last_new", "runs_per_second_lately")
"""What `fuzzvm status --json` says that is another thing a moment later."""
KIND = {False: "damage", True: "foreign"}


@dataclass
class Outcome:
    """What came of damaged folders. `wrong` has a line for each promise that was not kept."""

    folders: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    came_to: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Folder:
    """A folder that is being damaged: `path` is the campaign, `home` is what lies around it."""

    home: Path
    draw: random.Random
    foreign: bool = False
    """Whether something was written that is no damage: it may be believed, and must not do harm."""

    @property
    def path(self) -> Path:
        return self.home / "c"

    def files(self) -> list[Path]:
        """Return the files of the campaign, none of which need be as it was."""
        return sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink())

    def file(self) -> Path:
        """Return one of them: most often one of those that a campaign cannot do without."""
        files = self.files()
        few = [path for path in files if path.parent == self.path and path.name != "lock"]
        return self.draw.choice(few if few and self.draw.random() < 0.7 else files)

    def edit(self, *statements: str | tuple[str, tuple[Any, ...]]) -> None:
        """Change the journal, with the right digests or without; no word of a journal that is damaged already."""
        with suppress(sqlite3.Error, OSError):
            edit(self.path, *statements, reseal=self.draw.random() < 0.7)
        self.foreign = True


# Damage


def truncated(one: Folder) -> None:
    path = one.file()
    os.truncate(path, one.draw.randrange(path.stat().st_size + 1))


def emptied(one: Folder) -> None:
    os.truncate(one.file(), 0)


def flipped(one: Folder) -> None:
    path = one.file()
    data = bytearray(path.read_bytes())
    for _ in range(one.draw.choice((1, 1, 1, 2, 8, 64)) if data else 0):
        data[one.draw.randrange(len(data))] ^= 1 << one.draw.randrange(8)
    path.write_bytes(data)


def overwritten(one: Folder) -> None:
    path = one.file()
    data = bytearray(path.read_bytes())
    begin = one.draw.randrange(len(data) + 1)
    data[begin : begin + 512] = one.draw.randbytes(len(data[begin : begin + 512]))
    path.write_bytes(data)


def appended(one: Folder) -> None:
    with one.file().open("ab") as file:
        file.write(one.draw.randbytes(one.draw.randrange(1, 5000)))


def deleted(one: Folder) -> None:
    one.file().unlink()


def log_lost(one: Folder) -> None:
    (one.path / "journal.sqlite-wal").unlink(missing_ok=True)


def folder_lost(one: Folder) -> None:
    folders = [path for path in one.path.iterdir() if path.is_dir()]
    if folders:
        shutil.rmtree(one.draw.choice(folders))


def swapped(one: Folder) -> None:
    first, second = one.file(), one.file()
    text = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(text)


def older(one: Folder) -> None:
    """One of the files is from before the last sitting."""
    with suppress(OSError, sqlite3.Error):
        before = (one.path / "journal.sqlite").read_bytes()
        edit(
            one.path, "UPDATE campaign SET value = value + 1 WHERE name = 'seconds'", "UPDATE seal SET commits = 90000"
        )
        (one.path / "journal.commits").write_text(f"{90000:020d}\n")
        (one.path / "journal.sqlite").write_bytes(before)


# What is no damage


def link(one: Folder) -> None:
    path = one.draw.choice([*one.files(), *(path for path in one.path.iterdir() if path.is_dir())])
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(one.draw.choice((one.home / "precious.toml", one.home / "elsewhere", Path("/dev/zero"), path)))


def something_else(one: Folder) -> None:
    path = one.file()
    path.unlink()
    made = one.draw.choice(("pipe", "folder", "device", "hard link"))
    if made == "pipe":
        os.mkfifo(path)
    elif made == "folder":
        path.mkdir()
    elif made == "device" and os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    else:
        os.link(one.home / "precious.toml", path)


def rollback(one: Folder) -> None:
    with suppress(OSError):
        rollback_journal(one.path / "journal.sqlite", one.home / "precious.toml")


def named(one: Folder) -> None:
    names = (
        str(one.home / "precious.toml"),
        "../precious.toml",
        "../../x.toml",
        "",
        "\x1b[2J.toml",
        "a/b.toml",
        "x" * 999,
    )
    table = one.draw.choice(("failing", "finding"))
    state = ", state = 'settled'" if table == "failing" and one.draw.random() < 0.5 else ""
    one.edit((f"UPDATE {table} SET file = ?{state}", (one.draw.choice(names),)))


def rows(one: Folder) -> None:
    one.edit(
        one.draw.choice(
            [
                "UPDATE finding SET mitigation = './evil.py:Mine'",
                "UPDATE failing SET target = target + 100",
                "UPDATE done SET target = target - 100",
                "UPDATE done SET runs = -runs",
                "UPDATE campaign SET value = 1e300",
                "INSERT INTO open_task VALUES (77, 0, '../../evil', 10, 0)",
                "INSERT INTO open_task VALUES (78, 99, 'pct', 10, 0)",
                "INSERT INTO open_task VALUES (1, 0, 'pct', 1000000000000000, 0)",
                "INSERT INTO event VALUES (0, char(27) || '[2J', 0)",
                "INSERT INTO pair VALUES (12345, 1, 0)",
                "INSERT INTO pair VALUES (0, 'text', 0)",
                "INSERT INTO failing SELECT id + 9, target, error, 'x', '', '', '', 'unsettled', file, 0 FROM failing",
                "UPDATE finding SET message = char(27) || ']0;owned' || char(7)",
                "UPDATE finding SET scenario = char(8238)",
                "DELETE FROM pair WHERE pair % 2",
                "DELETE FROM cover",
                "UPDATE cover SET met = 7",
                "UPDATE cover SET met = 0",
                "UPDATE cover SET point = char(27) || '[2J' || point",
                "INSERT INTO cover VALUES (99, 'walk', 1, 0)",
                "DELETE FROM finding",
                "DELETE FROM done",
                "DELETE FROM settings",
                "UPDATE settings SET text = '{}'",
                "DROP TABLE pair",
                "CREATE TABLE more (x)",
                "CREATE TRIGGER more AFTER UPDATE ON seal BEGIN DELETE FROM done; END",
                "CREATE VIEW more AS SELECT * FROM done",
                "UPDATE seal SET commits = 0",
                "PRAGMA journal_mode = delete",
                "PRAGMA user_version = 7",
            ]
        )
    )


def settings(one: Folder) -> None:
    evil = one.draw.choice(("./evil.py:Mine", "evil.py:Mine+none", f"{one.home}/evil.py:Mine", "c/evil.py:Mine"))
    change = one.draw.choice(
        [
            {"targets": [[evil, 0, "sc", []]]},
            {"corpus": str(one.home / "elsewhere")},
            {"jobs": 10**6},
            {"hook_seconds": 1e300},
            {"engines": ["../evil", "pct"]},
            {"engines": "pct"},
            {"even_runs": 10**15},
            {"claims": [["\x1b[2J", "bug"]]},
            {"made_by": {}},
            {"scenarios": []},
            {"scenarios": 7},
            {"targets": [["none", 10**9, "sc", []]]},
            {"seed": "x"},
            {"format": 1},
            {"format": None},
        ]
    )
    with suppress(OSError, ValueError, sqlite3.Error, KeyError, AttributeError, TypeError):
        edit_settings(one.path, lambda data: data.update(change))
    one.foreign = True


def foreign_case(one: Folder) -> None:
    """A test case that is none of this campaign, with the name of its content; the journal's rows name it."""
    cases = [path for path in one.files() if path.suffix == ".toml"]
    if not cases:
        return
    old = one.draw.choice(cases)
    with suppress(Exception):
        path, _ = store.save(dataclasses.replace(read(old), mitigation="./evil.py:Mine"), old.parent)
        old.unlink()
        for table in ("failing", "finding"):
            one.edit((f"UPDATE {table} SET file = ? WHERE file = ?", (path.name, old.name)))
    one.foreign = True


WAYS: dict[str, tuple[Callable[[Folder], None], ...]] = {
    "damage": (
        *(truncated, truncated, emptied, flipped, flipped, flipped, overwritten, appended),
        *(deleted, deleted, log_lost, folder_lost, swapped, older),
    ),
    "foreign": (link, something_else, rollback, named, rows, rows, rows, settings, settings, foreign_case),
}


def bases(commands: Commands, folder: Path) -> list[Path]:
    """Make the campaigns that are damaged, each in a home of its own, in `c`."""
    homes = []
    for name, mitigation, more in (
        ("finished", "none", ()),
        ("own", "mine.py:Mine", ()),
        ("keeping", "none", ("--keep-going", "--schedule-by", "even")),
    ):
        home = folder / name
        home.mkdir(parents=True)
        (home / "mine.py").write_text(CANARY.format(ran="/dev/null"))
        ended = commands.run("fuzz", "-m", mitigation, *SEARCH, *more, "--campaign", "c", cwd=home)
        assert ended.status == 1, ended
        homes.append(home)
    leave_unsettled(homes[0] / "c")
    home = folder / "killed"
    shutil.copytree(homes[0], home, ignore=lambda _, names: ["c"] if "c" in names else [])
    killed(homes[0] / "c", home / "c")
    return [*homes, home]


def outside(home: Path) -> dict[str, object]:
    """Return what lies around a campaign."""
    found: dict[str, object] = {}
    for path in home.rglob("*"):
        name = path.relative_to(home)
        if name.parts[0] != "c":
            status = path.lstat()
            text = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            found[str(name)] = (status.st_mode, status.st_ino, status.st_mtime_ns if text is not None else 0, text)
    return found


def damage(commands: Commands, bases: list[Path], folder: Path, seed: int) -> Iterator[str]:
    """Damage a copy of one of the campaigns and run commands on it; yields what they were, and what is wrong.

    Whatever the damage: each command ends with 0, 1 or 2 and without a traceback, what it prints can be printed, one
    line where it is refused; nothing around the campaign has changed, and no code has run that nobody has named. Where
    it is damage and nothing else, it is noticed, or nothing that `fuzzvm status` says is otherwise than it was; and
    what was noticed can be recovered, unless neither the settings nor the journal's copy of them are left.
    """
    draw = random.Random(seed)
    base = bases[seed % len(bases)]
    shutil.copytree(base, folder, symlinks=True)
    for name in ("mine.py", "evil.py", "json.py", "click.py", "c/evil.py"):
        (folder / name).write_text(CANARY.format(ran=str(folder / "it-ran")))
    (folder / "precious.toml").write_text("precious\n")
    (folder / "elsewhere").mkdir()
    one = Folder(folder, draw)
    before = said(commands.run("status", "c", "--json", cwd=folder))
    assert before, base
    ways = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        foreign = draw.random() < 0.4
        way = draw.choice(WAYS[KIND[foreign]])
        if not one.files():
            break
        way(one)
        one.foreign |= foreign
        ways.append(way.__name__)
    what = f"seed {seed}, {base.name}, {' and '.join(ways)}"
    yield " ".join(ways)
    around = outside(folder)

    def run(*words: str) -> Ended:
        # fifty runs at most are asked for, and of them what the budget leaves
        more = ("--runs", "20", "--jobs", "1", "--json") if words[0] == "fuzz" else ()
        return commands.run(*words, *more, cwd=folder)

    def wrong(ended: Ended, name: str) -> Iterator[str]:
        if ended.status not in (0, 1, 2) or "Traceback" in ended.out + ended.err:
            yield f"wrong: {what}: {name}: {ended}"
        if ended.status == 2 and (ended.out or ended.err.count("\n") != 1):
            yield f"wrong: {what}: {name} is refused in more than a line: {ended}"
        if not (ended.out + ended.err).replace("\n", "").isprintable():
            yield f"wrong: {what}: {name} prints what cannot be printed: {ended}"
        if outside(folder) != around:
            yield f"wrong: {what}: {name} has changed something outside of the folder"
        if (folder / "it-ran").exists():
            yield f"wrong: {what}: {name} has run what nobody has named"

    first = run("status", "c", "--json")
    yield from wrong(first, "status")
    yield from wrong(run("status", "c"), "status as text")
    resumed = run("fuzz", "--resume", "c")
    yield from wrong(resumed, "fuzz --resume")
    noticed = first.status == 2
    if not noticed and not one.foreign and said(first) != before:
        yield f"wrong: {what}: nothing was noticed, and status says {said(first)} where it said {before}"
    if not noticed:
        yield "came to: harmless"
        return
    if resumed.status != 2:
        yield f"wrong: {what}: status says {first.err!r}, and fuzz --resume goes on"
    recovered = run("campaign", "recover", "c", "--json")
    yield from wrong(recovered, "campaign recover")
    if recovered.status == 2:
        yield f"came to: refused, {reason(recovered.err)}"
        if not one.foreign and "says any more what was searched" not in recovered.err and base.name != "own":
            yield f"wrong: {what}: it cannot be recovered: {recovered.err}"
        return
    yield f"came to: recovered{', with something left out' if recovered.status else ''}"
    again = run("status", "c", "--json")
    yield from wrong(again, "status, recovered")
    if again.status != 0:
        yield f"wrong: {what}: recovered, and still {again.err}"
    resumed = run("fuzz", "--resume", "c")
    yield from wrong(resumed, "fuzz --resume, recovered")
    if resumed.status not in (0, 1) and not one.foreign:
        yield f"wrong: {what}: recovered, and not resumed: {resumed.err}"


def said(ended: Ended) -> dict[str, Any] | None:
    """Return what `fuzzvm status --json` says, without what changes by itself; None where it is refused."""
    if ended.status != 0:
        return None
    data: dict[str, Any] = json.loads(ended.out)
    return {key: value for key, value in data.items() if key not in VOLATILE}


def reason(error: str) -> str:
    """Return in a few words why a folder is refused."""
    for words in (
        "says any more what was searched",
        "runs only where you name it",
        "no campaign there",
        "say so again",
    ):
        if words in error:
            return words
    return error.rpartition(": ")[2].strip()


def torment(commands: Commands, folder: Path, seeds: range) -> Outcome:
    """Damage a folder for each seed; return what came of it."""
    made = bases(commands, folder / "bases")
    outcome = Outcome()
    for seed in seeds:
        ways, *rest = damage(commands, made, folder / str(seed), seed)
        outcome.folders += 1
        outcome.ways.update(ways.split())
        for line in rest:
            if line.startswith("came to: "):
                outcome.came_to[line.removeprefix("came to: ")] += 1
            else:
                outcome.wrong.append(line)
        if not any(line.startswith("wrong") for line in rest):
            shutil.rmtree(folder / str(seed))
    return outcome


def main() -> None:
    folders = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    folder = Path(tempfile.mkdtemp(prefix="fuzzvm-damaged-"))
    with Commands() as commands:
        outcome = torment(commands, folder, range(seed, seed + folders))
    print(json.dumps(vars(outcome), indent=1))  # noqa: T201 - a script
    if not outcome.wrong:
        shutil.rmtree(folder)
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
