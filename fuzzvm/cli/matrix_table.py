"""The matrix of verdicts: for each memory model a table with a row a scenario and a column a mitigation.

A cell reads `safe 8.4k 0.16s`: verdict, states, seconds. On a terminal, as many columns stand side by side as fit and
the rest follow below; in a file or a pipe no line is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.cli.output import plain, say
from fuzzvm.verify.matrix import VerifiedCell

if TYPE_CHECKING:
    from rich.table import Table

UNEXPECTED = "!"
LEGEND = (
    f"verdict, states, seconds; {UNEXPECTED} is not as expected; cut is safe as far as a bound let it be explored; "
    "vacuous: what the scenario is for happened in no schedule; "
    "- was not run"
)
STYLES = {"safe": "green", "bug": "yellow", "cut": "magenta", "vacuous": "red", "undecided": "magenta"}
ALWAYS = ("safe", "bug", "cut")
UNEXPECTED_STYLE = "bold white on red"
GAP = 2
"""Columns of a terminal between two cells."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in a cell, and in which style."""

    text: str
    style: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """The cells of one memory model, by scenario and mitigation; one that was not run is not there."""

    memory: str
    scenarios: tuple[str, ...]
    mitigations: tuple[str, ...]
    entries: dict[tuple[str, str], Entry]

    def text(self, scenario: str, mitigation: str) -> str:
        """Return what stands in a cell."""
        entry = self.entries.get((scenario, mitigation))
        return "-" if entry is None else entry.text


def matrices(runs: Sequence[VerifiedCell]) -> list[Matrix]:
    """Return the matrix of each memory model, all in the order of the runs."""
    found = []
    for memory in dict.fromkeys(run.cell.memory for run in runs):
        own = [run for run in runs if run.cell.memory == memory]
        verdicts = max(len(_verdict(run)) for run in own)
        found.append(
            Matrix(
                memory,
                tuple(dict.fromkeys(run.cell.scenario.name for run in own)),
                tuple(dict.fromkeys(run.cell.mitigation for run in own)),
                {(run.cell.scenario.name, run.cell.mitigation): _entry(run, verdicts) for run in own},
            )
        )
    return found


def print_matrix(runs: Sequence[VerifiedCell]) -> None:
    """Print the matrices, a legend, and a line that counts the verdicts."""
    terminal = sys.stdout.isatty()
    for matrix in matrices(runs):
        say("", f"memory {matrix.memory}")
        if terminal:
            # imported here, as in _table: only a terminal needs it, and a small matrix takes less than a second
            from rich.console import Console

            console = Console(highlight=False)
            for number, mitigations in enumerate(blocks(matrix, console.width)):
                if number:
                    say()
                console.print(_table(matrix, mitigations))
        else:
            for line in plain_lines(matrix):
                say(line)
    say("", LEGEND)
    say(summary(runs))


def summary(runs: Sequence[VerifiedCell]) -> str:
    """Return how many verdicts there are of each kind, and what they took."""
    words = [_word(run) for run in runs]
    counts = [f"{words.count(word)} {word}" for word in STYLES if word in ALWAYS or word in words]
    wrong = sum(not run.as_expected for run in runs)
    states, seconds = sum(run.verdict.states for run in runs), sum(run.verdict.seconds for run in runs)
    judged = f"{wrong} NOT as expected" if wrong else "all as expected"
    return f"{len(runs)} runs: {', '.join(counts)}; {judged}; {states} states, {seconds:.1f} seconds of work"


def plain_lines(matrix: Matrix) -> list[str]:
    """Return the table with no line broken, columns aligned."""
    head = ("scenario", *matrix.mitigations)
    body = [(name, *(matrix.text(name, one) for one in matrix.mitigations)) for name in matrix.scenarios]
    widths = [max(len(row[index]) for row in (head, *body)) for index in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *body)]
    return [line.rstrip() for line in lines]


def blocks(matrix: Matrix, width: int) -> list[tuple[str, ...]]:
    """Return the mitigations in groups whose columns fit beside those of the scenarios; one each, where none does."""
    left = width - max(len(name) for name in (*matrix.scenarios, "scenario")) - GAP
    groups: list[list[str]] = []
    used = 0
    for mitigation in matrix.mitigations:
        wide = _column_width(matrix, mitigation) + GAP
        if not groups or used + wide > left:
            groups.append([])
            used = 0
        groups[-1].append(mitigation)
        used += wide
    return [tuple(group) for group in groups]


def heading(mitigation: str, width: int) -> str:
    """Return a mitigation's name on as many lines as that width takes, broken after hyphens."""
    lines = [""]
    parts = mitigation.split("-")
    for part in [*(f"{part}-" for part in parts[:-1]), parts[-1]]:
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _column_width(matrix: Matrix, mitigation: str) -> int:
    cells = max(len(matrix.text(scenario, mitigation)) for scenario in matrix.scenarios)
    return max(cells, *(len(part) + 1 for part in mitigation.split("-")))


def _table(matrix: Matrix, mitigations: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, GAP - 1, 0, 0), pad_edge=False)
    table.show_edge = False
    table.add_column("scenario", no_wrap=True)
    for mitigation in mitigations:
        width = _column_width(matrix, mitigation)
        table.add_column(plain(heading(mitigation, width)), no_wrap=True, min_width=width)
    for scenario in matrix.scenarios:
        row = [matrix.entries.get((scenario, mitigation)) or Entry("-", "dim") for mitigation in mitigations]
        table.add_row(plain(scenario), *(plain(one.text, one.style) for one in row))
    return table


def _entry(run: VerifiedCell, verdicts: int) -> Entry:
    verdict = run.verdict
    figures = f"{short_count(verdict.states):>4} {short_seconds(verdict.seconds):>5}"
    style = STYLES[_word(run)] if run.as_expected else UNEXPECTED_STYLE
    return Entry(f"{_verdict(run).ljust(verdicts)} {figures}", style)


def _word(run: VerifiedCell) -> str:
    if run.verdict.verdict != "safe":
        return run.verdict.verdict
    return "safe" if run.verdict.complete else "cut"


def _verdict(run: VerifiedCell) -> str:
    return _word(run) + ("" if run.as_expected else UNEXPECTED)


def short_count(number: int) -> str:
    """Return a count in at most four characters, up to 999 billion."""
    if number < 1000:
        return str(number)
    value = float(number)
    for unit in "kMG":
        value /= 1000
        if value < 9.95:
            return f"{value:.1f}{unit}"
        if value < 999.5 or unit == "G":
            return f"{value:.0f}{unit}"
    raise AssertionError("the last unit takes all")


def short_seconds(seconds: float) -> str:
    """Return a time in at most five characters, up to 9999 hours."""
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    if seconds < 600:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 36_000 else f"{seconds / 3600:.0f}h"
