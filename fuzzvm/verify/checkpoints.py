"""The checkpoint of one run of `fuzzvm verify`: what it is of, and whether this fuzzvm may go on with it.

A checkpoint says what was verified, and by what code: fuzzvm's own that a verdict rests on, and the file of a scheme of
the user's. Where any of that is something else now, numbers would stand for something else, and it is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzvm
from fuzzvm.exhaustive.checkpoint.errors import CheckpointError, DamagedError
from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper
from fuzzvm.exhaustive.checkpoint.plain import Plain
from fuzzvm.exhaustive.checkpoint.store import FORMAT, Store
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.files.errors import FileError
from fuzzvm.machine import memory as memory_models
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.digest import WITH_SEARCH, code_digest, scheme_texts
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.matrix import Bounds, Cell

Said = Callable[[str, bool], None]
"""Is told one line, and whether it is to be seen in any case."""


class Checkpoint:
    """An open checkpoint of a cell that is verified within bounds. Methods and constructors raise FileError."""

    def __init__(self, store: Store, cell: Cell, bounds: Bounds) -> None:
        self.cell = cell
        self.bounds = bounds
        self._store = store

    @classmethod
    def create(cls, path: Path, cell: Cell, bounds: Bounds) -> Checkpoint:
        """Return a new one. Raises MitigationError."""
        about = _about(cell, bounds)
        store = Store.create(path)
        store.about = about
        try:
            store.commit()
        except FileError:
            store.discard()
            raise
        return cls(store, cell, bounds)

    @classmethod
    def open(cls, path: Path, limits: Limits) -> Checkpoint:
        """Return one that is there. Raises MitigationError."""
        try:
            store = Store.open(path)
        except CheckpointError as error:
            raise FileError(path, str(error)) from error
        try:
            cell, bounds = _said_in(store.about, limits)
            _refuse_other(store.about, _about(cell, bounds))
        except CheckpointError as error:
            store.close()
            raise FileError(path, str(error)) from error
        except BaseException:
            store.close()
            raise
        return cls(store, cell, bounds)

    @property
    def path(self) -> Path:
        """Its file."""
        return self._store.path

    @property
    def reached(self) -> str:
        """How far it has come, in words."""
        about = self._store.about
        if "written" not in about:
            return "nothing is kept yet"
        return f"{about['states']} states, {about['stage']}, after {about['seconds']:.0f} s"

    def keeper(self, said: Said) -> DiskKeeper:
        """Return what keeps the searches of the cell in it, and goes on with the one that is kept there."""
        modules = {kind.__module__ for kind in self.cell.scheme().__mro__}
        return DiskKeeper(self._store, Plain(modules), said)

    def close(self) -> None:
        """Close it; the last checkpoint that was written stays."""
        self._store.close()


def _about(cell: Cell, bounds: Bounds) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fuzzvm": fuzzvm.__version__,
        "python": f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}",
        "code": code_digest(WITH_SEARCH),
        "scheme": scheme_texts(cell.mitigation),
        "mitigation": cell.mitigation,
        "scenario": cell.scenario.to_data(),
        "memory": cell.memory,
        "without": list(cell.without),
        "preemptions": bounds.preemptions,
        "reduce": bounds.reduce,
    }


_NAMES = {
    "format": "in another format",
    "fuzzvm": "by another version of fuzzvm",
    "python": "by another Python",
    "code": "by other code of fuzzvm",
    "scheme": "of another text of the mitigation",
}


def _refuse_other(said: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise CheckpointError where a checkpoint was written by or of something else than there is now."""
    for key, named in _NAMES.items():
        if said.get(key) != now[key]:
            shown = f": {said.get(key)!s:.40}, here {now[key]}" if key in ("fuzzvm", "python", "format") else ""
            raise CheckpointError(f"written {named}{shown}; begin the run again with --checkpoint and a new file")


def _said_in(about: dict[str, Any], limits: Limits) -> tuple[Cell, Bounds]:
    """Return the cell and the bounds that a checkpoint is of. Raises CheckpointError."""
    if about.get("format") != FORMAT:
        _refuse_other(about, dict.fromkeys(_NAMES, "") | {"format": FORMAT})
    try:
        scenario = Scenario.from_data(about["scenario"])
        mitigation, memory, without = about["mitigation"], about["memory"], about["without"]
        preemptions, reduce = about["preemptions"], about["reduce"]
        right = type(mitigation) is str and memory in memory_models.names() and memory_models.searchable(memory)
        right = right and type(reduce) is bool and (preemptions is None or type(preemptions) is int)
        ordering_points.get(without)
        counts = [about.get(name, 0) for name in ("states", "seconds", "written")]
        right = right and all(type(count) in (int, float) and count >= 0 for count in counts)
        right = right and type(about.get("stage", "")) is str and str(about.get("stage", "")).isprintable()
    except (KeyError, TypeError, ValueError, ScenarioError) as error:
        raise DamagedError(f"it does not say what it is of: {error}") from error
    if not right:
        raise DamagedError("it does not say what it is of")
    return Cell(mitigation, scenario, memory, tuple(without)), Bounds(limits, preemptions, reduce)
