"""`fuzzvm new-mitigation`: the file it writes is a scheme, with every hook."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.cli.starting_file import hooks, starting_file
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry

ROOT = Path(__file__).resolve().parents[2]


def fuzzvm(folder: Path, *arguments: str) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "fuzzvm", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_the_file_is_a_scheme_that_does_nothing(tmp_path: Path) -> None:
    status, output = fuzzvm(tmp_path, "new-mitigation", "sample-early")
    assert status == 0 and "./sample_early.py:SampleEarly" in output
    spec = f"{tmp_path}/sample_early.py:SampleEarly"
    assert registry.get(spec).name == "sample-early"
    status, output = fuzzvm(tmp_path, "verify", "-m", spec, "-s", "pmd-promotion", "--memory", "sc")
    assert status == 1 and "use-after-free-read" in output


def test_the_file_names_itself(tmp_path: Path) -> None:
    status, output = fuzzvm(tmp_path, "new-mitigation", "sample-early", "-o", "start.py")
    assert status == 0 and output.endswith("verify --mitigation ./start.py:SampleEarly\n")
    text = (tmp_path / "start.py").read_text()
    assert text.count("./start.py:SampleEarly") == 3 and "sample_early.py" not in text


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    status, output = fuzzvm(tmp_path, "new-mitigation", "mine")
    assert status == 2 and "mine.py: File exists" in output and output.count("\n") == 1
    assert (tmp_path / "mine.py").read_text() == "precious"


@pytest.mark.parametrize("name", ["", "-", "a b!", "../up", "1st", "a--b", "é"])
def test_what_is_no_name(tmp_path: Path, name: str) -> None:
    status, output = fuzzvm(tmp_path, "new-mitigation", name)
    assert status == 2 and output.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "module", "cls"),
    [
        ("sample-early", "sample_early", "SampleEarly"),
        ("SampleEarly", "sample_early", "SampleEarly"),
        ("RCUFree", "rcu_free", "RCUFree"),
        ("v2", "v2", "V2"),
    ],
)
def test_names(name: str, module: str, cls: str) -> None:
    assert starting_file(name)[:2] == (module, cls)


def test_every_hook_is_in_it_and_can_be_taken_out_of_its_comment() -> None:
    _, _, text = starting_file("mine")
    generic = {name for name, value in vars(Mitigation).items() if callable(value) and not name.startswith("_")}
    head, marker, commented = text.partition("# Take out of the comments what the scheme needs.")
    assert marker
    code = head + "\n".join(line.replace("    # ", "    ", 1) for line in commented.splitlines())
    (cls,) = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in cls.body if isinstance(node, ast.FunctionDef)} == generic
    assert len(hooks()) == len(generic)
