"""`fuzzvm litmus`: output, exit status, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fuzzvm.cli.commands.litmus import litmus

CORPUS = Path(__file__).parents[2] / "corpus" / "litmus"
PTDUMP = str(CORPUS / "ptdump" / "ptdump.litmus")
BAD = "AArch64 bad\n{ 0:X1=x; }\n P0 ;\n FOO W0,[X1] ;\nexists (0:X0=0)\n"


def invoke(*arguments: str) -> tuple[int, Result]:
    result = CliRunner().invoke(litmus, arguments, standalone_mode=False)
    assert result.exception is None, result.exception
    return result.return_value, result


def test_the_commit_test() -> None:
    status, result = invoke(PTDUMP)
    assert status == 0
    assert "Observation ptdump Never 0 5\n" in result.stdout
    assert result.stderr == ""


def test_what_is_refused_is_one_line_and_the_others_run(tmp_path: Path) -> None:
    bad = tmp_path / "bad.litmus"
    bad.write_text(BAD, encoding="utf-8")
    status, result = invoke(str(bad), str(tmp_path / "none.litmus"), PTDUMP)
    assert status == 2
    assert result.stderr == (
        f"{bad}:4: unsupported instruction FOO W0,[X1]\n{tmp_path / 'none.litmus'}: No such file or directory\n"
    )
    assert "bad" not in result.stdout
    assert "Observation ptdump Never 0 5\n" in result.stdout


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.litmus"
    bad.write_bytes(b"AArch64 \xff")
    status, result = invoke(str(bad))
    assert (status, result.stderr) == (2, f"{bad}: not UTF-8 text\n")


def test_json() -> None:
    status, result = invoke("--json", PTDUMP)
    assert status == 0
    (test,) = json.loads(result.stdout)["tests"]
    assert (test["test"], test["observation"], test["ok"], len(test["states"])) == ("ptdump", "Never", False, 5)


def test_speedcheck_settles_the_condition() -> None:
    status, result = invoke("--speedcheck", "fast", PTDUMP)
    assert status == 0 and "States 0\n" in result.stdout and "Observation ptdump Never 0 0\n" in result.stdout
    status, result = invoke("--json", "--speedcheck", "true", PTDUMP)
    (test,) = json.loads(result.stdout)["tests"]
    assert (test["observation"], test["ok"], test["states"], test["complete"]) == ("Never", False, [], False)


def test_loops_that_are_cut_are_said_so(tmp_path: Path) -> None:
    path = tmp_path / "loop.litmus"
    path.write_text("AArch64 loop\n{}\n P0 ;\n l: ADD W0,W0,#1 ;\n B l ;\nexists (0:X0=0)\n", encoding="utf-8")
    _, result = invoke(str(path))
    assert "loops were not followed to their end" in result.stderr


SPIN = "AArch64 spin\n{ 0:X1=x; }\n P0 ;\n L: LDR W3,[X1] ;\n CBZ W3,L ;\nforall (0:X3=1)\n"
STORE = "AArch64 store\n{ 0:X1=x; 0:X2=1; }\n P0 ;\n STR W2,[X1] ;\nexists (x=1)\n"
ENDLESS = "AArch64 endless\n{{ {} }}\n P0 ;\n{}exists (0:X26=2)\n".format(
    " ".join(f"0:X{at}=v{at};" for at in range(24)),
    # each pair has two ways to go on
    "".join(f" LDXR W28,[X{at}] ;\n STXR W27,W26,[X{at}] ;\n" for at in range(24)),
)


def command(*arguments: str) -> tuple[int, str, str]:
    """Run the command itself; return status, stdout and stderr."""
    done = subprocess.run([sys.executable, "-m", "fuzzvm", "litmus", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Return the paths of a few tests by their names."""
    texts = {"spin": SPIN, "store": STORE, "endless": ENDLESS, "bad": BAD}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return {name: str(tmp_path / name) for name in texts}


@pytest.mark.parametrize(
    ("names", "options", "status", "verdicts", "errors"),
    [
        (["store"], [], 0, ["Ok"], ""),
        (["spin"], [], 1, ["Vacuous"], "{spin}: no execution comes to its end; the condition was asked of none\n"),
        (
            ["store"],
            ["--max-states", "1"],
            1,
            ["Undecided"],
            "{store}: not everything was explored: --max-states 1 reached\n",
        ),
        (
            ["endless"],
            ["--max-seconds", "0.5"],
            1,
            ["Undecided"],
            "{endless}: not everything was explored: --max-seconds 0.5 reached\n",
        ),
        (
            ["spin", "bad"],
            [],
            2,
            ["Vacuous"],
            (
                "{spin}: no execution comes to its end; the condition was asked of none\n"
                "{bad}:4: unsupported instruction FOO W0,[X1]\n"
            ),
        ),
    ],
)
def test_what_is_undecided_is_no_success(
    files: dict[str, str], names: list[str], options: list[str], status: int, verdicts: list[str], errors: str
) -> None:
    paths = [files[name] for name in names]
    got, stdout, stderr = command(*options, *paths)
    assert (got, stderr) == (status, errors.format(**files))
    assert [line for line in stdout.splitlines() if line in ("Ok", "No", "Undecided", "Vacuous")] == verdicts
    got, stdout, stderr = command(*options, "--json", *paths)
    assert (got, stderr) == (status, errors.format(**files))
    assert [test["verdict"] for test in json.loads(stdout)["tests"]] == verdicts


def test_json_says_which_bound(files: dict[str, str]) -> None:
    _, stdout, _ = command("--json", "--max-states", "1", files["store"])
    (test,) = json.loads(stdout)["tests"]
    assert (test["observation"], test["ok"], test["complete"]) == ("Undecided", False, False)
    assert (test["bound"], test["timelines"]) == ("--max-states 1 reached", 1)


@pytest.mark.parametrize("bound", [["--max-states", "0"], ["--max-seconds", "0"], ["--max-seconds", "-1"]])
def test_bounds_that_are_none_are_refused(files: dict[str, str], bound: list[str]) -> None:
    status, stdout, stderr = command(*bound, files["store"])
    assert (status, stdout) == (2, "") and bound[0] in stderr


def test_ctrl_c_leaves_the_json_of_what_is_done(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["fuzzvm.cli.commands.litmus"]
    run = module.run  # type: ignore[attr-defined]

    def interrupted(text: str, *arguments: object, **options: object) -> object:
        if text == ENDLESS:
            raise KeyboardInterrupt
        return run(text, *arguments, **options)

    monkeypatch.setattr(module, "run", interrupted)
    status, result = invoke("--json", files["store"], files["endless"], files["store"])
    assert status == 130
    data = json.loads(result.stdout)
    assert ([test["test"] for test in data["tests"]], data["interrupted"]) == (["store"], True)


@pytest.mark.parametrize("name", ["lark", "click"])
def test_the_library_needs_no_command_line(name: str) -> None:
    """`fuzzvm.litmus` itself is cheap to import; the parser comes with the first test."""
    code = f"import fuzzvm.litmus, sys; sys.exit({name!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
