"""`fuzzvm mail`: a finding or a proof as plain text for a list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuzzvm.corpus.format import parse, read
from fuzzvm.corpus.replay import replay
from tests.cli.running import fuzzvm

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
FINDING = sorted((CORPUS / "history").glob("linux-7-3-use-after-free-read-824c72162ff0.toml"))[0]


def body(text: str) -> tuple[str, str]:
    """Return a mail without the test case at its end, and the test case."""
    head, _, tail = text.partition("race.toml\n---------\n")
    return head, tail


@pytest.mark.product
@pytest.mark.parametrize(
    "file",
    [FINDING, *sorted((CORPUS / "history").glob("*deadlock*")), *sorted((CORPUS / "regressions").glob("none-*"))[:3]],
)
def test_a_finding_fits_in_72_columns_and_holds_its_test_case(file: Path) -> None:
    done = fuzzvm("mail", str(file))
    assert done.returncode == 0, done.stderr
    head, tail = body(done.stdout)
    case = read(file)
    assert done.stdout.startswith(f"Subject: [BUG] {case.expect.error}")
    # a command is one line, however long: it is to be copied; and an address has no blank to be broken at
    wide = [line.strip() for line in head.splitlines()[1:] if len(line) > 72]
    assert [line for line in wide if " " in line and not line.startswith("fuzzvm verify")] == []
    assert "*" in head.partition("The interleaving")[2]
    assert f"--memory {case.memory}" in head
    attached = parse(tail)
    assert attached == case
    assert replay(attached).as_expected


def test_it_says_how_to_find_it_again_and_that_is_so() -> None:
    (line,) = [one for one in fuzzvm("mail", str(FINDING)).stdout.splitlines() if "fuzzvm verify" in one]
    command = line.split()
    assert command[:4] == ["fuzzvm", "verify", "--release", "linux-7.3"]
    assert "use-after-free-read in vmalloc_to_page" in fuzzvm(*command[1:]).stdout


def test_a_proof_says_what_safe_covers(tmp_path: Path) -> None:
    runs = fuzzvm(
        "verify", "--release", "linux-7.3", "-m", "none", "-s", "x86-pmd-promotion", "--memory", "sc", "--json"
    )
    (tmp_path / "proof.json").write_text(runs.stdout, encoding="utf-8")
    done = fuzzvm("mail", str(tmp_path / "proof.json"), "-o", str(tmp_path / "mail.txt"))
    assert done.returncode == 0
    text = (tmp_path / "mail.txt").read_text(encoding="utf-8")
    assert text.startswith("Subject: fuzzvm: 1 of 1 verdicts are safe\n")
    assert "every schedule of these CPUs" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 72


def test_what_was_cut_short_or_is_a_bug_is_not_called_safe(tmp_path: Path) -> None:
    run = {
        "mitigation": "m",
        "scenario": "s",
        "memory": "sc",
        "verdict": "safe",
        "bug": None,
        "complete": False,
        "states": 9,
    }
    bug = run | {"verdict": "bug", "bug": "deadlock", "complete": True}
    (tmp_path / "runs.json").write_text(json.dumps({"runs": [run, bug]}), encoding="utf-8")
    text = fuzzvm("mail", str(tmp_path / "runs.json")).stdout
    assert text.startswith("Subject: fuzzvm: 0 of 2 verdicts are safe")
    assert "safe, not complete" in text
    assert "bug: deadlock" in text


@pytest.mark.parametrize("text", ["{}", '{"runs": []}', '{"runs": [1]}', "{", "x = 1", "\x00"])
def test_what_is_neither_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "what").write_text(text, encoding="utf-8")
    done = fuzzvm("mail", str(tmp_path / "what"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_run_in_which_nothing_goes_wrong_is_no_proof() -> None:
    done = fuzzvm("mail", str(sorted((CORPUS / "seeds").glob("static-key-safe-*"))[0]))
    assert done.returncode == 2
    assert "one run is no proof" in done.stderr
