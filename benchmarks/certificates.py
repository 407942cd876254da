"""Measures certificates beside the search: `python benchmarks/certificates.py CELL... [--seconds N]`.

A cell is MITIGATION,SCENARIO,MEMORY. Each is measured in a process of its own: processor time of `verify`, of listing
all states and of checking them. Prints the rows of the table of docs/certificate.md, as they are done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzzvm.certificate.check import check
from fuzzvm.certificate.file import read
from fuzzvm.exhaustive.limits import Limits, StoppedError
from fuzzvm.mitigations import registry
from fuzzvm.scenario import own
from fuzzvm.verify.certify import CertifyError, certify
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell


def measured(mitigation: str, scenario: str, memory: str, seconds: float) -> dict[str, Any]:
    """Return what one cell takes, in seconds of processor time; 'cut' where `seconds` are not enough to list it."""
    cell = Cell(mitigation, own.get(scenario), memory)
    times = [time.process_time()]
    verdict = verify_cell(cell, Bounds(Limits())).verdict
    times.append(time.process_time())
    row: dict[str, Any] = {"searched": verdict.states, "verify": times[1] - times[0]}
    try:
        certificate = certify(cell, verdict, Limits(max_seconds=seconds))
    except (CertifyError, StoppedError) as error:
        return row | {"cut": str(error)}
    times.append(time.process_time())
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(certificate.content)
        check(read(path), registry.get(mitigation), mitigation)
    times.append(time.process_time())
    row |= {"states": certificate.states, "bytes": len(certificate.content)}
    return row | {"certify": times[2] - times[1], "check": times[3] - times[2]}


def shown(cell: str, row: dict[str, Any]) -> str:
    """Return a cell's row as Markdown."""
    name = cell.replace(",", ", ")
    start = f"| {name} | {row['searched']:,} | {row['verify']:.2f} "
    if "cut" in row:
        return f"{start}| - | - | - | {row['cut']} | missed |"
    ratio = row["check"] / row["verify"]
    return (
        f"{start}| {row['states']:,} | {row['bytes']:,} | {row['certify']:.2f} | {row['check']:.2f} "
        f"| {ratio:.1f}{'' if ratio <= 5 else ', missed'} |"
    )


def main() -> None:
    """Measure the cells that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cells", nargs="+", metavar="CELL")
    parser.add_argument("--seconds", type=float, default=120.0, help="for listing the states of one cell")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for cell in options.cells:
        if options.one:
            print(json.dumps(measured(*cell.split(","), options.seconds)))  # noqa: T201
            continue
        command = [sys.executable, __file__, "--one", cell, "--seconds", str(options.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        row = shown(cell, json.loads(done.stdout)) if done.returncode == 0 else f"| {cell} | {done.stderr[-300:]} |"
        print(row, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
