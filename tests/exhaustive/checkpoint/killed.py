"""A verdict in processes that are killed: here one goes on, and all that the one before had is thrown away."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.exhaustive import limits, stages
from fuzzvm.exhaustive.checkpoint import keeper as keeper_module
from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper
from fuzzvm.exhaustive.checkpoint.kept import Kept
from fuzzvm.exhaustive.checkpoint.plain import Plain
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.verdict import Verdict, verify
from fuzzvm.scenario import shipped
from fuzzvm.verify.checkpoints import Checkpoint
from fuzzvm.verify.matrix import Bounds, Cell


class KilledError(Exception):
    """Stands for the end of a process."""


class MortalKeeper(DiskKeeper):
    """Dies after so many checkpoints."""

    def __init__(self, checkpoint: Checkpoint, left: int, *, seconds: float = 0.0) -> None:
        plain = Plain({kind.__module__ for kind in checkpoint.cell.scheme().__mro__})
        super().__init__(checkpoint._store, plain, seconds=seconds)
        self.left = left

    def _keep(self, space: Space, kept: Kept) -> None:
        super()._keep(space, kept)
        self.left -= 1
        if not self.left:
            raise KilledError


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small systems go through all that large ones do: stages, reductions, and a checkpoint at each look."""
    monkeypatch.setattr(limits, "FIRST_LOOK", 16)
    monkeypatch.setattr(limits, "CHECK_EVERY", 16)
    monkeypatch.setattr(stages, "FEW", 100)
    monkeypatch.setattr(stages, "SHALLOW", 100)
    monkeypatch.setattr(keeper_module, "SHARE", float("inf"))


def cell_of(mitigation: str, scenario: str, memory: str) -> Cell:
    """Return a cell of what ships."""
    return Cell(mitigation, shipped.get(scenario), memory)


def killed_often(path: Path, cell: Cell, bounds: Bounds, seed: int, kills: int, most: int = 12) -> tuple[Verdict, int]:
    """Return the verdict on a cell whose process is killed so many times at most, and how many times it was.

    Each process writes up to `most` checkpoints.
    """
    turns = random.Random(seed)
    checkpoint = Checkpoint.create(path, cell, bounds)
    killed = 0
    while True:
        left = turns.randint(1, most) if killed < kills else 0
        try:
            verdict = verified(checkpoint, MortalKeeper(checkpoint, left))
            checkpoint.close()
            return verdict, killed
        except KilledError:
            killed += 1
            checkpoint.close()
            checkpoint = Checkpoint.open(path, Limits())


def verified(checkpoint: Checkpoint, keeper: DiskKeeper | None) -> Verdict:
    """Return the verdict on a checkpoint's cell, by a system that nobody has searched."""
    bounds = checkpoint.bounds
    return plainly(checkpoint.cell, bounds, keeper)


def plainly(cell: Cell, bounds: Bounds, keeper: DiskKeeper | None = None) -> Verdict:
    """Return the verdict on a cell."""
    return verify(cell.system(), preemptions=bounds.preemptions, reduce=bounds.reduce, keeper=keeper)


def facts(verdict: Verdict) -> dict[str, Any]:
    """Return all that two verdicts on a cell must have in common."""
    return {
        "verdict": verdict.verdict,
        "error": verdict.failure and (verdict.failure.error, verdict.failure.function),
        "schedule": verdict.schedule,
        "complete": verdict.complete,
        "stopped": verdict.stopped,
        "states": verdict.states,
        "transitions": verdict.transitions,
    }
