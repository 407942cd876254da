"""The page that shows a matrix of verdicts, each failing one linked to the page of its story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.report.html.escape import render


@dataclass(frozen=True)
class MatrixCell:
    """A verdict: `bug` is the error's id, '' where it is safe; `stopped` names the bound that cut the search, if any.

    `missing` says what the scenario is for and happened in no schedule, '' where nothing is missing.
    `as_expected` is whether it is the documented verdict; `story` is the address of the page of its shortest run, ''
    where there is none.
    """

    mitigation: str
    scenario: str
    memory: str
    bug: str
    stopped: str
    states: int
    seconds: float
    as_expected: bool
    story: str = ""
    missing: str = ""

    @property
    def verdict(self) -> str:
        """The verdict in a word or two."""
        if self.bug or self.missing:
            return self.bug or "vacuous"
        return "safe" if not self.stopped else "cut short"


def matrix_page(cells: Sequence[MatrixCell]) -> str:
    """Return the page: a row for each scenario and memory model, a column for each mitigation, in their order here."""
    by_place = {(cell.scenario, cell.memory, cell.mitigation): cell for cell in cells}
    return render(
        "matrix_page.html.j2",
        mitigations=list(dict.fromkeys(cell.mitigation for cell in cells)),
        rows=list(dict.fromkeys((cell.scenario, cell.memory) for cell in cells)),
        cells=by_place,
        unexpected=[cell for cell in cells if not cell.as_expected],
        states=sum(cell.states for cell in cells),
        seconds=sum(cell.seconds for cell in cells),
        cut=[cell for cell in cells if cell.stopped],
        count=len(cells),
    )
