"""`fuzzvm ptdump` in a subprocess."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clock import PATIENCE
from tests.dump import samples


def ptdump(*arguments: str | Path, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzzvm", "ptdump", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=PATIENCE, input=stdin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in samples.SAMPLES.items():
        (tmp_path / name).write_text(text)
    after = samples.ARM64.replace("PMD       RW NX SHD AF            BLK", "PMD       ro NX SHD AF            BLK")
    (tmp_path / "after").write_text(after)
    return tmp_path


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_the_table(folder: Path) -> None:
    done = ptdump("arm64", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "arm64: arm64, 23 rows in 29 lines\n"
        "pages of 4K (inferred: not 16K or 64K, since PTE rows come in multiples of 4K)\n"
        "\n"
        "region          mapped  PTE   PTE CON  PMD  PMD CON  PUD  block   contiguous  TLB entries  as pages  W+X\n"
        "Linear Mapping  2G      2M    -        30M  992M     1G   99.9 %  0.0 %       559          524288    -\n"
        "Modules         36K     36K   -        -    -        -    0.0 %   0.0 %       9            9         4K\n"
        "vmalloc() area  7.0M    68K   960K     6M   -        -    85.7 %  13.4 %      35           1793      -\n"
        "total           2.0G    2.1M  960K     36M  992M     1G   99.9 %  0.0 %       603          526090    4K\n"
        "\n"
        "vmalloc space: 85.7 % of 7.0M mapped by blocks (85.8 % without devices), 13.4 % by contiguous pages;\n"
        "  35 TLB entries, 1793 if all were pages\n"
        "W+X: 1 range, 4K\n"
        "  0xffff80007c008000-0xffff80007c009000      4K  Modules: PTE RW x SHD AF UXN MEM/NORMAL\n"
    )


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_json_is_all_there_is(folder: Path, name: str) -> None:
    done = ptdump(name, "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    data: dict[str, Any] = json.loads(done.stdout)
    assert (data["layout"], data["warnings"], data["skipped_rows"]) == (name, [], 0)
    assert data["page_size"]["bytes"] == 4096
    piped = ptdump("-", "--json", cwd=folder, stdin=samples.SAMPLES[name])
    assert json.loads(piped.stdout) == data | {"file": "<stdin>"}


def test_two_dumps(folder: Path) -> None:
    done = ptdump("arm64", "after", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "protection changed" in done.stdout
    assert "0xffff800080200000-0xffff800080800000      6M  vmalloc() area: protection changed: PMD RW" in done.stdout
    data = json.loads(ptdump("arm64", "after", "--json", cwd=folder).stdout)
    assert data["totals"] == [
        {"region": "vmalloc() area", "change": "protection changed", "bytes": 6 << 20, "ranges": 1}
    ]
    assert (data["before"]["file"], data["after"]["file"]) == ("arm64", "after")
    assert "no range changed" in ptdump("arm64", "arm64", cwd=folder).stdout
    nothing = json.loads(ptdump("arm64", "after", "--json", "--limit", "0", cwd=folder).stdout)
    assert (nothing["changes"], nothing["changes_left_out"]) == ([], 1)


def test_doubt_about_the_page_size_is_told_and_can_be_settled(folder: Path) -> None:
    row = "0xffff800080000000-0xffff800080200000           2M PTE       RW NX SHD AF        CON     UXN    MEM/NORMAL\n"
    (folder / "short").write_text(row)
    done = ptdump("short", cwd=folder)
    assert "pages of 64K (inferred, in doubt: 4K or 16K or 64K, as no row is finer)" in done.stdout
    assert "no marker names it" in done.stdout
    settled = json.loads(ptdump("short", "--page-size", "4K", "--json", cwd=folder).stdout)
    assert settled["page_size"]["source"] == "option"
    assert settled["total"]["tlb_entries"] == 32


def test_warnings_go_to_stderr_with_their_lines(folder: Path) -> None:
    (folder / "bad").write_text(samples.ARM64.replace("30M", "31M"))
    done = ptdump("bad", cwd=folder)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0].startswith("bad:3: row skipped: ")
    assert "left out: rows skipped: 1" in done.stdout
    quiet = ptdump("bad", "--json", cwd=folder)
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["warnings"][0]["line"] == 3


@pytest.mark.product
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'FILE'"),
        (("missing",), "missing: No such file or directory"),
        (("/",), "directory"),
        (("arm64", "missing"), "missing: No such file or directory"),
        (("empty",), "empty:1: empty"),
        (("binary",), "binary:1: binary data"),
        (("text",), "text:1: no row of kernel_page_tables"),
        (("twice",), "twice:31: the row begins at 0xffff000000000000, before 0x10000000000000000"),
        (("arm64", "x86_64"), "x86_64: a dump of x86_64, while arm64 is one of arm64"),
        (("arm64", "--page-size", "64K"), "pages are not of 64K: PTE rows come in multiples of 4K"),
        (("arm64", "--page-size", "8K"), "--page-size"),
        (("arm64", "--plot", "a.pdf"), "must end in .svg or .png"),
        (("-", "-"), "standard input can be one of the two"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    (folder / "empty").write_text("")
    (folder / "text").write_text("hello\n")
    (folder / "binary").write_bytes(bytes(range(256)) * 10)
    (folder / "twice").write_text(samples.ARM64 * 2)
    assert message in one_line_error(ptdump(*arguments, cwd=folder))


def test_the_picture(folder: Path) -> None:
    without = "import sys; sys.modules['matplotlib'] = None\nfrom fuzzvm.cli.main import main; main()"
    command = [sys.executable, "-c", without, "ptdump", "arm64", "--plot", "out.svg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=PATIENCE)
    assert "matplotlib is not installed: pip install matplotlib" in one_line_error(done)
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    for name in ("one.svg", "one.png"):
        done = ptdump("arm64", "--plot", name, "--json", cwd=folder)
        assert json.loads(done.stdout)["plot"] == name
    assert (folder / "one.png").read_bytes().startswith(b"\x89PNG")
    picture = (folder / "one.svg").read_text()
    assert "vmalloc() area" in picture
    assert "35 TLB entries" in picture
    ptdump("arm64", "after", "--plot", "two.svg", cwd=folder)
    assert "(after)" in (folder / "two.svg").read_text()
    first = (folder / "two.svg").read_bytes()
    ptdump("arm64", "after", "--plot", "two.svg", cwd=folder)
    assert (folder / "two.svg").read_bytes() == first
    assert "no such folder" in one_line_error(ptdump("arm64", "--plot", "no/where.svg", cwd=folder))
