"""Schemes that do not do the same every time are named with hook, file and line; others are left alone."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.exhaustive import Limits, Verdict
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError, StoppedError
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism import elsewhere
from fuzzvm.verify.determinism.asked import Driving
from fuzzvm.verify.determinism.elsewhere import SEEDS, NondeterministicSchemeError, ask
from fuzzvm.verify.determinism.scheme import check
from fuzzvm.verify.system import verify_system
from tests.clock import PATIENCE
from tests.verify.determinism import schemes, steady
from tests.verify.determinism.steady import CountsForItself, EndsHere, Locked
from tests.verify.determinism.steady_sets import AsksAndSortsSets

ROOT = Path(__file__).parents[3]


def judged(
    scheme: type[Mitigation], scenario: str = "pmd-promotion", memory: str = "sc"
) -> tuple[Verdict, Driving | None]:
    """Return what `fuzzvm verify` says, after second processes were asked."""
    system = System(shipped.get(scenario), scheme, memory)
    # those that are never the same might keep a search from its end
    limits = Limits(max_states=20_000)
    verdict, driving = verify_system(system, limits)
    check(scheme, [driving])
    return verdict, driving


def marked(scheme: type[Mitigation]) -> tuple[str, int]:
    """Return file and line of the mark in the source of a scheme."""
    lines, first = inspect.getsourcelines(scheme)
    (number,) = [number for number, line in enumerate(lines) if "# HERE" in line]
    return inspect.getfile(scheme), first + number


@pytest.mark.product
@pytest.mark.parametrize("scheme", schemes.CHANGING, ids=lambda scheme: scheme.__name__)
def test_what_changes_is_an_error_with_its_place(scheme: type[Mitigation]) -> None:
    with pytest.raises(NondeterministicSchemeError) as caught:
        judged(scheme)
    filename, line = marked(scheme)
    assert caught.value.filename == filename
    # a difference that shows after the hook is told of where the hook was last
    assert abs(caught.value.line - line) <= 1
    assert "\n" not in str(caught.value)
    assert "does not do the same every time" in caught.value.message or "a hook calls" in caught.value.message


@pytest.mark.parametrize("scheme", [Locked, CountsForItself, AsksAndSortsSets], ids=lambda scheme: scheme.__name__)
def test_what_does_the_same_has_its_verdict(scheme: type[Mitigation]) -> None:
    verdict, driving = judged(scheme)
    assert (verdict.verdict, verdict.complete) == ("safe", True)
    assert driving is not None


def test_what_ships_is_not_asked_about() -> None:
    system = System(shipped.get("pmd-promotion"), registry.get("static-key"), "sc")
    assert verify_system(system)[1] is None


@pytest.mark.product
@pytest.mark.parametrize("seed", ["1", "2", "random"])
def test_the_hash_seed_of_the_first_process_does_not_matter(seed: str) -> None:
    """A set of two comes in one order or the other under each seed: among those that are asked there are both."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fuzzvm",
            "verify",
            "-m",
            f"{schemes.__file__}:OrderOfASet",
            "-s",
            "pmd-promotion",
            "--memory",
            "sc",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
        check=False,
    )
    filename, line = marked(schemes.OrderOfASet)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fuzzvm: {filename}:{line}: before_free does not do the same every time: ")
    assert done.stderr.count("\n") == 1


def test_the_seeds_that_are_asked_have_both_orders_of_a_set() -> None:
    script = "print(*{'one', 'other'}, *{'a', 'b'}, *{'promotes', 'falls back'})"
    said = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in SEEDS
    }
    assert len(said) > 3


def test_a_class_that_no_other_process_finds_is_refused() -> None:
    class Inside(Locked):
        name = "inside"

    with pytest.raises(ProgramError, match="must be at the top level of its file"):
        judged(Inside)


def test_stacks_are_found_again() -> None:
    stacked = registry.get(f"ptdump-locks-init-mm+{steady.__file__}:Locked")
    verdict, driving = judged(stacked)
    assert verdict.verdict == "safe" and driving is not None
    with pytest.raises(NondeterministicSchemeError):
        judged(registry.get(f"none+{schemes.__file__}:OrderOfASet"))


def test_under_weak_memory_as_well() -> None:
    assert judged(Locked, memory="arm64")[0].verdict == "safe"
    with pytest.raises(NondeterministicSchemeError):
        judged(schemes.OrderOfASet, memory="arm64")


def test_a_bug_of_a_scheme_that_changes_is_no_verdict_either() -> None:
    with pytest.raises(NondeterministicSchemeError):
        judged(schemes.OrderOfASet, scenario="x86-cpa-and-vmap")


def test_a_scheme_that_does_not_end_elsewhere_keeps_nobody_waiting() -> None:
    system = System(shipped.get("pmd-promotion"), EndsHere, "sc")
    driving = verify_system(system)[1]
    assert driving is not None
    with pytest.raises(StoppedError, match="not repeated in a second process for want of time"):
        ask(EndsHere, [driving], until=0.0)


def test_what_ends_a_second_process_is_its_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(shipped.get("pmd-promotion"), EndsHere, "sc")
    driving = verify_system(system)[1]
    assert driving is not None
    monkeypatch.setattr(elsewhere, "SECONDS", 1.0)
    with pytest.raises(NondeterministicSchemeError, match="has not done within 1 s in a second process"):
        ask(EndsHere, [driving])
