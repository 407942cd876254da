"""Every command that reads or writes a file, with files that are none: refused at once, in one line, nothing harmed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fuzzvm.cli import main as command_line
from tests.cli.forked import Commands, Ended
from tests.devices import own_device

ROOT = Path(__file__).resolve().parents[2]
RACE = sorted((ROOT / "corpus" / "regressions").glob("none-use-after-free-read-*.toml"))[0]
SMALL = ("-s", "pmd-promotion", "--memory", "sc")
MANY = 300 << 20
"""Bytes that no refusal needs: a process with all of fuzzvm imported has a third of it."""

READING = {
    "replay": ("replay", "FILE"),
    "explain": ("explain", "FILE"),
    "minimize": ("minimize", "FILE"),
    "export": ("export", "FILE", "--to", "litmus"),
    "litmus": ("litmus", "FILE"),
    "ptdump": ("ptdump", "FILE"),
    "ptdump, second": ("ptdump", "dump.txt", "FILE"),
    "verify, scenario": ("verify", "-m", "none", "-s", "./FILE.toml"),
    "fuzz, scenario": ("fuzz", "-m", "none", "-s", "./FILE.toml"),
    "necessity, scenario": ("necessity", "-m", "static-key", "-s", "./FILE.toml"),
    "verify, mitigation": ("verify", "-m", "FILE.py:Mine", *SMALL),
    "fuzz, mitigation": ("fuzz", "-m", "FILE.py:Mine", *SMALL),
    "fuzz, stack": ("fuzz", "-m", "FILE.py:Mine+none", *SMALL),
    "necessity, mitigation": ("necessity", "-m", "FILE.py:Mine", *SMALL),
    "certify, scenario": ("certify", "-m", "none", "-s", "./FILE.toml", "-o", "out"),
    "certify, mitigation": ("certify", "-m", "FILE.py:Mine", *SMALL, "-o", "out"),
    "replay, mitigation": ("replay", "race.toml", "-m", "FILE.py:Mine"),
    "corpus add": ("corpus", "add", "corpus", "FILE"),
    "corpus check": ("corpus", "check", "one"),
    "corpus min": ("corpus", "min", "one"),
    "corpus merge": ("corpus", "merge", "corpus", "one"),
    "kernel replay, file": ("kernel", "replay", "FILE", "--kernel", "."),
    "kernel replay, kernel": ("kernel", "replay", "race.toml", "--kernel", "kernel"),
    "kernel compare": ("kernel", "compare", "--kernel", "kernel"),
    "kernel build, config": ("kernel", "build", "--tree", "tree", "--config", "FILE", "-o", "out"),
    "image build, config": ("image", "build", "--tree", "tree", "--config", "FILE", "-o", "out"),
    "image build, patch": ("image", "build", "--tree", "tree", "--patch", "FILE", "-o", "out"),
    "image build, kernel": ("image", "build", "--vmlinux", "FILE", "-o", "out"),
    "image show": ("image", "show", "image"),
    "image compare": ("image", "compare", "image", "--release", "linux-7.3"),
    "verify, image": ("verify", "--image", "image"),
    "mail": ("mail", "FILE"),
    "bench, records": ("bench", "--quick", "--only", "first-bug", "--out", "bench"),
    "status": ("status", "campaign"),
    "fuzz --resume": ("fuzz", "--resume", "campaign"),
    "campaign recover": ("campaign", "recover", "campaign"),
    "tls": (
        *("verify", *SMALL, "--executor", "tls://127.0.0.1:1"),
        *("--tls-ca-file", "FILE", "--tls-cert", "FILE", "--tls-key", "FILE"),
    ),
}
REFUSED_BY_ONE = {"corpus add", "corpus check", "corpus min", "corpus merge"}
"""Which say of each file what is wrong with it, on stdout and with status 1."""
IN_PLACE = ("one/x.toml", "kernel/kernel.json", "bench/first-bug.jsonl", "image/image.json", "campaign/settings.json")
KINDS = ("a pipe", "a device", "a sparse file", "a link to a device")


def put(kind: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    elif kind == "a link to a device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)


def all_below(folder: Path) -> list[Path]:
    """Return what is in a folder, but for the lock of a campaign, which says nothing."""
    return sorted(path for path in folder.rglob("*") if path.name != "lock")


def one_line(ended: Ended, status: int = 2) -> str:
    assert ended.status == status, ended
    assert ended.out == "" and ended.err.count("\n") == 1, ended
    return ended.err


@pytest.mark.product
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once(kind: str, commands: Commands, tmp_path: Path) -> None:
    if kind == "a device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    for name in ("FILE", "FILE.toml", "FILE.py", *IN_PLACE):
        put(kind, tmp_path / name)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "Kbuild").touch()
    shutil.copy(RACE, tmp_path / "race.toml")
    (tmp_path / "dump.txt").write_text("no dump\n")
    for name, arguments in READING.items():
        before = all_below(tmp_path)
        ended = commands.run(*arguments, cwd=tmp_path)
        assert ended.status is not None, f"{name} hangs"
        assert ended.peak < MANY, (name, ended)
        assert "Traceback" not in ended.out + ended.err, (name, ended)
        if name in REFUSED_BY_ONE:
            # a corpus is looked through, and what is no file in it is no test case
            assert ended.status in (0, 1, 2) and len(ended.err.splitlines()) <= 1, (name, ended)
        else:
            one_line(ended)
        assert all_below(tmp_path) == before, name


def test_every_command_that_takes_a_path_is_there() -> None:
    """A new command, or a new option that names a file, belongs into the table above or into one of these."""
    writes = {"html", "output", "out", "plot", "save", "corpus", "campaign", "markdown"}
    folders = {"folder", "sources", "kernel", "kernels", "cache", "tree", "objects_folder"}
    seen = {word for arguments in READING.values() for word in arguments}

    def paths(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                inner = command.get_command(click.Context(command), name)
                assert inner is not None
                yield from paths(inner, (*words, name))
            return
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                yield words, parameter

    found = list(paths(command_line.cli, ()))
    assert len(found) > 20
    for words, parameter in found:
        if parameter.name in writes | folders:
            continue
        options = set(parameter.opts) & seen if isinstance(parameter, click.Option) else {words[0]} & seen
        assert options, f"fuzzvm {' '.join(words)}: {parameter.name} is in no row"


@pytest.mark.parametrize("name", ["null", "full"])
def test_a_device_that_is_named_for_output_stays_one(name: str, commands: Commands, tmp_path: Path) -> None:
    device = own_device(name, tmp_path / "devices")
    before = device.stat()
    for arguments in (("explain", RACE, "--html"), ("minimize", RACE, "-o"), ("export", RACE, "--to", "litmus", "-o")):
        ended = commands.run(*arguments, device, cwd=tmp_path)
        after = device.stat()
        assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev), ended
        if name == "full":
            assert one_line(ended) == f"fuzzvm: {device}: No space left on device\n"
        else:
            assert ended.status == 0, ended
    # more files would go beside it
    page = one_line(commands.run("verify", "-m", "none", *SMALL, "--html", device, cwd=tmp_path))
    assert "not written, as it is a character device" in page
    # a new file, or none
    assert "File exists" in one_line(commands.run("new-mitigation", "mine", "-o", device, cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] in ([], ["devices"])


def test_links_pipes_and_folders_that_are_named_for_output_are_refused(commands: Commands, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "page.html").symlink_to(precious)
    (folder / "out-stories").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    os.mkfifo(folder / "pipe")

    def refused(*arguments: str | Path) -> str:
        return one_line(commands.run(*arguments, cwd=folder))

    for out in ("page.html", "pipe"):
        for arguments in (
            ("explain", RACE, "--html"),
            ("minimize", RACE, "-o"),
            ("export", RACE, "--to", "litmus", "-o"),
        ):
            assert refused(*arguments, out).startswith(f"fuzzvm: {out}: ")
    assert "is a symbolic link" in refused("verify", "-m", "none", *SMALL, "--html", "out.html")
    assert precious.read_text() == "precious" and stat.S_ISFIFO((folder / "pipe").lstat().st_mode)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["a\x1b[2J\x1b]0;owned\x07.toml", "two\nlines: ok.toml", "\u202elmot.x", b"\xff.toml"])
def test_the_name_of_a_file_is_shown_and_not_obeyed(name: str | bytes, commands: Commands, tmp_path: Path) -> None:
    file = os.fsdecode(name)
    shutil.copy(RACE, tmp_path / file)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / file).write_text("no test case")
    for arguments in (
        ("replay", file),
        ("explain", file),
        ("minimize", file, "--budget", "1"),
        ("corpus", "add", "corpus", file),
        ("replay", f"bad/{file}"),
        ("corpus", "check", "bad"),
        ("litmus", f"bad/{file}"),
        ("ptdump", f"bad/{file}"),
        ("verify", "-m", f"{file}.py:X", *SMALL),
        ("status", file + "x"),
        ("fuzz", "--resume", file + "x"),
    ):
        ended = commands.run(*arguments, cwd=tmp_path)
        assert "Traceback" not in ended.err, ended
        for line in (ended.out + ended.err).split("\n"):
            assert line.replace("\t", "").isprintable(), (arguments, line)
        assert len(ended.err.splitlines()) <= 1, ended
