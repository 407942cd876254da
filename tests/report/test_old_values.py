"""Stories of old values: the barrier that would have forbidden each is named, and none where two CPUs just race."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.corpus.format import TestCase, read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.report.story import tell
from tests.clock import PATIENCE

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
LEFT_OUT = {path: read(path) for path in sorted((CORPUS / "necessity").glob("*-use-after-free-read-*.toml"))}


def case_without(*points: str) -> Path:
    return next(path for path, case in LEFT_OUT.items() if case.without == points)


def remarks(case: TestCase) -> list[str]:
    """Return what is said of each old value and stale instruction."""
    texts = [step.text for step in tell(case, mitigation_of(case)).steps]
    return [text.partition(" -- ")[2] for text in texts if "an old value" in text or "a stale instruction" in text]


@pytest.mark.parametrize(
    ("points", "forbidden"),
    [
        (("walk-lock-acquire",), "dmb ishld on CPU 1 between step 32 and step 34"),
        (("patch-dc",), "dc cvau on CPU 1 between step 4 and step 5"),
        (("patch-dsb-1",), "dsb ish on CPU 1 between step 5 and step 6"),
        (("patch-ic",), "ic ivau on CPU 1 between step 6 and step 12"),
        (("patch-dsb-2",), "dsb ish on CPU 1 between step 12 and step 20"),
        (("flush-isb", "patch-ipi"), "isb on CPU 0 between step 26 and step 29"),
        (("flush-dsbs", "patch-ipi"), "dsb ish; isb on CPU 0 between step 25 and step 28"),
    ],
)
def test_what_was_left_out_is_what_would_have_forbidden_it(points: tuple[str, ...], forbidden: str) -> None:
    """Each case fails for want of an ordering point of the scheme, and nobody has told the story which."""
    assert remarks(LEFT_OUT[case_without(*points)])[-1].endswith(f"; forbidden by {forbidden}")


@pytest.mark.parametrize("points", [("walk-key",), ("free-key-check",)])
def test_of_a_race_nothing_is_said(points: tuple[str, ...]) -> None:
    """A walker that takes no key, or that nobody asks for, may have read before the write: no barrier forbids that."""
    (remark,) = remarks(LEFT_OUT[case_without(*points)])
    assert remark == "an old value: CPU 0 has written none"


def test_no_barrier_would_save_a_kernel_without_a_mitigation() -> None:
    cases = [read(path) for path in (CORPUS / "regressions").glob("none-*.toml")]
    found = [remark for case in cases if case.memory == "arm64" for remark in remarks(case)]
    assert len(found) > 10
    assert not [remark for remark in found if "forbidden" in remark]


def test_explain_says_it() -> None:
    path = case_without("patch-ic")
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "explain", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "a stale instruction: there is branch now; forbidden by ic ivau on CPU 1 between step 6" in done.stdout
