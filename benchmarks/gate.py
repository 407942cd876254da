"""Holds the whole matrix of `fuzzvm verify` against a recorded one: a change of the search must change nothing else.

    python benchmarks/gate.py record BEFORE.json [-- OPTIONS OF fuzzvm verify]
    python benchmarks/gate.py check BEFORE.json [-- OPTIONS OF fuzzvm verify]

`check` compares verdict, error, function, completeness, states, transitions and shortest schedule of every run, and
ends with status 1 where one of them differs. It prints both sums of seconds: on a shared machine these say little, so
compare speed with `check --beside PYTHON`, which verifies every SAMPLEth run by the fuzzvm of that interpreter and by
this one in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

SAME = ("verdict", "bug", "function", "complete", "bound", "states", "transitions", "schedule", "as_expected")
KEY = ("mitigation", "scenario", "memory", "tlb", "without")
SAMPLE = 20
REPEATS = 5

Run = dict[str, Any]


def matrix(options: list[str], python: str = sys.executable) -> list[Run]:
    """Return the runs of `fuzzvm verify` with these options, as its JSON has them."""
    done = subprocess.run([python, "-m", "fuzzvm", "verify", "--json", *options], capture_output=True, text=True)
    if not done.stdout:
        raise SystemExit(done.stderr)
    runs: list[Run] = json.loads(done.stdout)["runs"]
    return runs


def key(run: Run) -> tuple[Any, ...]:
    """Return which run it is."""
    return tuple(str(run[name]) for name in KEY)


def differences(before: list[Run], after: list[Run]) -> list[str]:
    """Return a line for each thing that differs; a run that there was none of before differs from nothing."""
    old, new = ({key(run): run for run in runs} for runs in (before, after))
    lines = [f"{' '.join(one)}: only before" for one in old.keys() - new.keys()]
    for one in old.keys() & new.keys():
        lines += [
            f"{' '.join(one)}: {name} was {old[one][name]}, is {new[one][name]}"
            for name in SAME
            if old[one][name] != new[one][name]
        ]
    return sorted(lines)


def ratios(before: list[Run], python: str) -> list[float]:
    """Return, for a sample of the runs, the seconds of this fuzzvm by those of the other one, in turns."""
    found = []
    for run in sorted(before, key=lambda run: -run["states"])[::SAMPLE]:
        options = ["-m", run["mitigation"], "-s", run["scenario"], "--memory", run["memory"]]
        pairs = [[matrix(options, one)[0]["seconds"] for one in (sys.executable, python)] for _ in range(REPEATS)]
        found.append(statistics.median(mine / max(other, 1e-4) for mine, other in pairs))
        click.echo(f"{run['states']:>9} states  {found[-1]:.3f}  {' '.join(options)}")
    return found


def main() -> int:
    """Record or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--beside", metavar="PYTHON", help="interpreter whose fuzzvm is the one before")
    parser.add_argument("options", nargs="*", help="options of fuzzvm verify, behind --")
    asked = parser.parse_args()
    if asked.what == "record":
        asked.file.write_text(json.dumps(matrix(asked.options)), encoding="utf-8")
        return 0
    before: list[Run] = json.loads(asked.file.read_text(encoding="utf-8"))
    if asked.beside:
        click.echo(f"seconds, median of the ratios: {statistics.median(ratios(before, asked.beside)):.3f}")
        return 0
    after = matrix(asked.options)
    if asked.options:
        checked = {key(run) for run in after}
        before = [run for run in before if key(run) in checked]
    lines = differences(before, after)
    click.echo("\n".join(lines))
    seconds = [sum(run["seconds"] for run in runs) for runs in (before, after)]
    added = len({key(run) for run in after} - {key(run) for run in before})
    click.echo(f"{len(after)} runs, {added} of them new, {len(lines)} differences")
    click.echo(f"{seconds[0]:.0f} s before, {seconds[1]:.0f} s after")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
