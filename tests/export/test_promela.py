"""Spin comes to fuzzvm's verdict on the exported model, and to as many states."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.exhaustive import verify
from fuzzvm.export.errors import ExportError
from fuzzvm.export.promela import explore, promela
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

REGRESSIONS = Path(__file__).resolve().parents[2] / "corpus" / "regressions"

needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="spin and gcc are needed to check the model"
)


def case_of(name: str, scenario: str = "pmd-promotion") -> TestCase:
    return TestCase(shipped.get(scenario), name, "sc", (), Expectation("safe"))


def system_of(name: str) -> System:
    return System(shipped.get("pmd-promotion"), registry.get(name), "sc")


def pan(text: str, folder: Path) -> str:
    """Return what pan prints on a model, without partial-order reduction and with no merging of steps."""
    (folder / "model.pml").write_text(text)
    for command in (
        ["spin", "-a", "-o3", "model.pml"],
        ["gcc", "-w", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return subprocess.run(["./pan", "-m1000000"], cwd=folder, check=False, capture_output=True, text=True).stdout


def verdict(output: str) -> str:
    if "pan:1: assertion violated" in output:
        return "use-after-free-read"
    if "pan:1: invalid end state" in output:
        return "deadlock"
    assert re.search(r"errors: 0\b", output) and "max search depth too small" not in output, output
    return "safe"


@needs_spin
@pytest.mark.parametrize("name", ["none", "static-key", "mmap-lock-always", "vmap-trylock+static-key"])
def test_spin_comes_to_the_same_verdict(name: str, tmp_path: Path) -> None:
    system = system_of(name)
    output = pan(promela(case_of(name), registry.get(name)), tmp_path)
    found = verify(system)
    assert verdict(output) == ("safe" if found.failure is None else found.failure.error)
    if found.failure is None:
        # pan stops at the first error, so only where there is none has it been everywhere
        states = re.search(r"(\d+) states, stored", output)
        assert states is not None and int(states[1]) == len(explore(system).states)


@needs_spin
def test_a_lock_that_does_nothing_is_found_by_spin(tmp_path: Path) -> None:
    """The check can fail: what waits for the lock no longer waits."""
    text = promela(case_of("mmap-lock-always"), registry.get("mmap-lock-always"))
    name = re.search(r"(cell\d+): word 0 of init_mm\.mmap_lock", text)
    assert name is not None
    declared = re.search(rf"int {name[1]} = (\d+);", text)
    assert declared is not None
    free = declared[1]
    broken = re.sub(rf"{name[1]} = \d+;", f"{name[1]} = {free};", text)
    assert broken != text
    assert verdict(pan(broken, tmp_path)) != "safe"


def test_a_model_that_is_too_large_is_refused() -> None:
    with pytest.raises(ExportError, match="more than 100 states: raise --max-states"):
        promela(case_of("static-key"), registry.get("static-key"), 100)


def test_what_only_oracles_find_is_refused() -> None:
    with pytest.raises(ExportError, match="is what oracles find"):
        case = read(sorted(REGRESSIONS.glob("static-key-tlb-conflict-*.toml"))[0])
        promela(case, registry.get("static-key"))


def test_every_label_is_there_once_and_every_jump_has_one() -> None:
    text = promela(case_of("none"), registry.get("none"))
    for process in text.split("active proctype")[1:]:
        labels = re.findall(r"^(\w+):", process, re.MULTILINE)
        assert len(labels) == len(set(labels))
        assert set(re.findall(r"goto (\w+)", process)) <= set(labels)
