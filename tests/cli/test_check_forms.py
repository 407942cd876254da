"""What `fuzzvm check` writes beside its text: JSON, KTAP, SARIF, a page, and what `fuzzvm mail` makes of it."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from tests.cli.forked import Commands
from tests.cli.test_check import RELEASES, TAKES, check, functions_of, pairs_of, patch
from tests.cli.test_check_inputs import COMMENT
from tests.compiled import small
from tests.report.check_samples import BROKEN
from tests.report.ktap_parser import parse


def fields(data: Any) -> Any:
    """Return the fields of an object and of the objects in it."""
    if isinstance(data, dict):
        return {key: fields(value) for key, value in data.items()}
    return [fields(data[0])] if isinstance(data, list) and data and isinstance(data[0], dict) else None


def test_every_form_of_an_answer_without_a_search(commands: Commands, tmp_path: Path) -> None:
    found = patch(tmp_path / "one", "mm/vmalloc.c", COMMENT)
    given = ("check", "--tree", small.SOURCES, "--patch", found)
    ended = commands.run(
        *given, "--ktap", "--sarif", "out.sarif", "--html", "out.html", "--mail", "out.txt", cwd=tmp_path
    )
    assert ended.status == 0, ended.err
    (test,) = parse(ended.out)
    assert (test.name, test.ok, test.tests) == ("fuzzvm check", True, [])
    assert json.loads((tmp_path / "out.sarif").read_text())["runs"][0]["results"] == []
    assert "only comments and white space change" in (tmp_path / "out.html").read_text().lower()
    ended = commands.run(*given, "--json", cwd=tmp_path)
    data = json.loads(ended.out)
    assert data["command"] == f"fuzzvm check --tree {small.SOURCES} --patch {found}"
    (tmp_path / "check.json").write_text(ended.out)
    ended = commands.run("mail", "check.json", cwd=tmp_path)
    assert ended.status == 0 and ended.out.startswith("Subject: fuzzvm check: no change: ")
    assert (tmp_path / "out.txt").read_text() == ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "--ktap"), "--json and --ktap are both for standard output"),
        (("--sarif", "."), "is a directory"),
        (("--html", "nothing/there/"), "nothing/there"),
        (("--mail", "nothing/there"), "nothing/there"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_built(
    commands: Commands, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    found = patch(tmp_path / "one", "mm/vmalloc.c", COMMENT)
    (tmp_path / "nothing").touch()
    ended = commands.run("check", "--tree", small.SOURCES, "--patch", found, *arguments, cwd=tmp_path)
    assert ended.status == 2 and message in ended.err and not ended.out


def test_a_mail_of_damaged_json_is_refused(commands: Commands, tmp_path: Path) -> None:
    for number, data in enumerate(
        ({"check": 1}, {"check": 2}, BROKEN | {"pairs": [{}]}, BROKEN | {"images": [1]}, [1])
    ):
        (tmp_path / "bad.json").write_text(" " + json.dumps(data))
        ended = commands.run("mail", "bad.json", cwd=tmp_path)
        assert ended.status == 2, number
        assert "Traceback" not in ended.err


@pytest.mark.slow
@small.needs_compiler
def test_the_samples_have_the_fields_that_the_command_prints(tmp_path: Path) -> None:
    found = patch(tmp_path / "drop", "mm/vmalloc.c", (TAKES, ""), (RELEASES, "(void)0;"))
    status, data, err = check(tmp_path, small.SOURCES, "--patch", str(found))
    assert status == 1, err
    sample = BROKEN | {"pairs": [one for one in BROKEN["pairs"] if one["answer"] == "broken"], "left_out": {}}
    assert fields(data) == fields(sample)


@pytest.mark.slow
@small.needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the compiler of x86_64 is this machine's own")
def test_two_architectures_are_one_answer(tmp_path: Path) -> None:
    found = patch(tmp_path / "drop", "mm/vmalloc.c", (TAKES, ""), (RELEASES, "(void)0;"))
    arguments = ("--patch", str(found), "-s", "x86-pmd-promotion", "--html", str(tmp_path / "out.html"))
    status, data, err = check(tmp_path, small.SOURCES, *arguments)
    assert (status, data["answer"]) == (1, "broken"), err
    assert [(one["scenario"], one["memory"], one["answer"]) for one in pairs_of(data)] == [
        ("pmd-promotion", "sc", "broken"),
        ("pmd-promotion", "arm64", "broken"),
        ("x86-pmd-promotion", "sc", "broken"),
        ("x86-pmd-promotion", "tso", "broken"),
    ]
    assert [one["base"]["arch"] for one in data["images"]] == ["arm64", "x86_64"]  # type: ignore[attr-defined]
    looks = {one["name"]: one["pairs"] for one in functions_of(data)}
    assert len(looks["vmap_try_huge_pmd"]) == 4 and "x86_64" in (tmp_path / "out.html").read_text()
