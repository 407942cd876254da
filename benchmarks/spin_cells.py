"""Holds fuzzvm's verdicts under sequential consistency against Spin's: every scheme in every scenario that ships.

    python benchmarks/spin_cells.py OUT.json [-m MITIGATION]... [-s SCENARIO]... [--max-states N]

Each cell that can be exported (docs/export.md) becomes a model, and pan explores it without partial-order reduction.
Compared are the verdict, and where pan finds nothing the number of states that it stored. A cell that the export
refuses is listed with the reason. Ends with status 1 where one cell differs. Needs `spin` and `gcc` on PATH.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.exhaustive import verify
from fuzzvm.export.errors import ExportError
from fuzzvm.export.promela import promela
from fuzzvm.machine.errors import (
    DEADLOCK,
    DOUBLE_FREE,
    NO_PROGRESS,
    REUSED_OBJECT,
    USE_AFTER_FREE_READ,
    USE_AFTER_FREE_WRITE,
)
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.verify.matrix import Cell, cells

MAX_STATES = 30_000
DEPTH = 1_000_000
OF_MEMORY = frozenset({USE_AFTER_FREE_READ, USE_AFTER_FREE_WRITE, REUSED_OBJECT, DOUBLE_FREE})
"""Errors that are one violated assertion in a model."""
ASSERTION, INVALID_END, SAFE, NO_ANSWER = "assertion violated", "invalid end state", "safe", "no answer"
STATES = re.compile(r"^ \* (\d+) states; what goes wrong", re.MULTILINE)
"""What the head of a model says of how many there are."""
SPIN = ("spin", "-a", "-o3", "model.pml")
GCC = ("gcc", "-w", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c")


def by_spin(text: str) -> tuple[str, int]:
    """Return pan's verdict on a model, and the number of states that it stored."""
    with tempfile.TemporaryDirectory(prefix="fuzzvm-spin-") as folder:
        Path(folder, "model.pml").write_text(text, encoding="utf-8")
        for command in (SPIN, GCC):
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        done = subprocess.run(["./pan", f"-m{DEPTH}"], cwd=folder, check=False, capture_output=True, text=True)
    stored = re.search(r"(\d+) states, stored", done.stdout)
    states = int(stored[1]) if stored else 0
    for verdict in (ASSERTION, INVALID_END):
        if f"pan:1: {verdict}" in done.stdout:
            return verdict, states
    complete = re.search(r"errors: 0\b", done.stdout) and "max search depth too small" not in done.stdout
    return (SAFE if complete else NO_ANSWER), states


def by_fuzzvm(cell: Cell) -> str:
    """Return the verdict of `verify`, in Spin's words."""
    found = verify(cell.system())
    if found.failure is None:
        return SAFE if found.complete else NO_ANSWER
    error = found.failure.error
    return ASSERTION if error in OF_MEMORY else INVALID_END if error in (DEADLOCK, NO_PROGRESS) else error


def compared(cell: Cell, max_states: int) -> dict[str, Any]:
    """Return the row of a cell: both verdicts and whether they agree, or why there is no model."""
    row: dict[str, Any] = {"scenario": cell.scenario.name, "mitigation": cell.mitigation}
    case = TestCase(cell.scenario, cell.mitigation, cell.memory, (), Expectation("safe"))
    try:
        text = promela(case, cell.scheme(), max_states)
    except ExportError as error:
        return row | {"refused": str(error)}
    begun = time.perf_counter()
    verdict, states = by_spin(text)
    mine = by_fuzzvm(cell)
    written = STATES.search(text)
    assert written is not None
    agree = verdict == mine and (verdict != SAFE or int(written[1]) == states)
    seconds = round(time.perf_counter() - begun, 1)
    return row | {"spin": verdict, "fuzzvm": mine, "states": states, "agree": agree, "seconds": seconds}


def main() -> int:
    """Compare every cell; return 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-m", dest="mitigations", action="append", metavar="MITIGATION")
    parser.add_argument("-s", dest="scenarios", action="append", metavar="SCENARIO")
    parser.add_argument("--max-states", type=int, default=MAX_STATES)
    asked = parser.parse_args()
    if not (shutil.which("spin") and shutil.which("gcc")):
        raise SystemExit("spin and gcc are needed")
    scenarios = [shipped.get(name) for name in asked.scenarios or shipped.shipped()]
    rows = []
    for cell in cells(asked.mitigations or list(registry.shipped()), scenarios, "sc"):
        rows.append(row := compared(cell, asked.max_states))
        found = f"{row['spin']}, {row['states']} states, {row['fuzzvm']}" if "spin" in row else row["refused"]
        click.echo(f"{row['scenario']} {row['mitigation']}: {'' if row.get('agree', True) else 'DIFFERS: '}{found}")
        asked.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    exported = [row for row in rows if "spin" in row]
    differ = sum(not row["agree"] for row in exported)
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(row["spin"] for row in exported).most_common())
    click.echo(f"{len(rows)} cells, {len(exported)} exported ({kinds}), {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
