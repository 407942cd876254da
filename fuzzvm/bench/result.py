"""What a benchmark returns: figures, targets with the ratio that was reached, and what was not measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Row = dict[str, Any]
Note = Callable[[str], None]
"""Told what is being measured, as it goes."""


@dataclass(frozen=True)
class WantedRatio:
    """A ratio that is wanted of a benchmark, and the one that was reached.

    `at_least` says on which side of `wanted` it must lie.
    """

    what: str
    ratio: float
    wanted: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.ratio >= self.wanted if self.at_least else self.ratio <= self.wanted


@dataclass
class Result:
    """The figures of one benchmark. `not_measured` names each peer that is missing, or part left out, and why.

    `interrupted` says that Ctrl-C ended it, and that the figures are of what was measured until then.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    targets: list[WantedRatio] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)
    interrupted: bool = False

    def to_data(self) -> dict[str, Any]:
        """Return it as strings, numbers, lists and dicts."""
        targets = [{**asdict(target), "met": target.met} for target in self.targets]
        return {
            "rows": self.rows,
            "targets": targets,
            "not_measured": self.not_measured,
            "interrupted": self.interrupted,
        }
