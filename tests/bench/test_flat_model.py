"""The flat model says what the shipped one says, and every peer says what fuzzvm says of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fuzzvm.bench import spin, threads
from fuzzvm.bench.flat_model import SCHEMES, FlatTask
from fuzzvm.bench.spin import run_spin
from fuzzvm.bench.threads import run_frontrun
from fuzzvm.exhaustive import Limits, verify
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.mitigations import registry

needs_spin = pytest.mark.skipif(bool(spin.missing()), reason=f"Spin: {spin.missing()}")
needs_frontrun = pytest.mark.skipif(bool(threads.missing()), reason=f"frontrun: {threads.missing()}")


def verdict(slots: int, walkers: int, scheme: str) -> str:
    found = verify(FlatTask(slots, walkers, scheme))
    assert found.complete
    return found.verdict


@pytest.mark.parametrize("scheme", SCHEMES)
def test_verdicts_are_those_that_the_shipped_mitigations_claim(scheme: str) -> None:
    mitigation = registry.get(scheme)
    assert verdict(3, 1, scheme) == mitigation.one_walker
    assert verdict(3, 2, scheme) == mitigation.two_walkers


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_failure_is_that_of_the_shipped_model(scheme: str) -> None:
    found = verify(FlatTask(2, 2, scheme))
    assert (found.failure is None) == (scheme == "static-key")
    assert found.failure is None or found.failure.error == "use-after-free-read"


def test_no_such_scheme() -> None:
    with pytest.raises(KeyError):
        FlatTask(2, scheme="nix")


@needs_spin
@pytest.mark.parametrize(("slots", "walkers"), [(5, 1), (3, 2)])
def test_spin_sees_the_same_states(slots: int, walkers: int) -> None:
    theirs = run_spin(slots, walkers, "static-key", reduced=False)
    ours = search(Space(FlatTask(slots, walkers, "static-key")), Limits())
    assert theirs["safe"]
    assert not ours.findings
    assert theirs["states"] == ours.states


@needs_spin
@pytest.mark.parametrize("scheme", ["none", "static-key-enable"])
@pytest.mark.parametrize("walkers", [1, 2])
def test_spin_agrees_on_verdicts(scheme: str, walkers: int) -> None:
    assert run_spin(2, walkers, scheme)["safe"] == (verdict(2, walkers, scheme) == "safe")


@needs_frontrun
@pytest.mark.parametrize("scheme", ["none", "static-key"])
def test_frontrun_agrees_on_verdicts(scheme: str) -> None:
    theirs = run_frontrun("dpor", 1, scheme)
    assert not theirs["ended_early"]
    assert theirs["holds"] == (verdict(1, 1, scheme) == "safe")


@needs_frontrun
def test_frontrun_sees_a_bug_in_an_installed_fuzzvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "fuzzvm"
    installed.mkdir(parents=True)
    monkeypatch.setattr(threads, "PROGRAM", Path(shutil.copy(threads.PROGRAM, installed)))
    assert not run_frontrun("dpor", 1, "none")["holds"]
