"""Measures agreement with herd7 on a folder of litmus tests.

    python benchmarks/litmus_catalogue.py EXPECTED.json CATALOGUE

EXPECTED maps shelf -> test -> {"observation", "states"} under the key "catalogue"; CATALOGUE is the folder `catalogue`
of herdtools7. A test is found by its file's name, else by its title.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from fuzzvm import litmus
from fuzzvm.litmus.program import LitmusError


def find(folder: Path) -> dict[str, Path]:
    """Return the tests of a folder by title and by file name; file names win."""
    files = sorted(folder.glob("*.litmus"))
    titles = {path.read_text(encoding="utf-8").split(maxsplit=2)[1]: path for path in reversed(files)}
    return titles | {path.stem: path for path in files}


def main() -> int:
    """Print a table and every disagreement; return 1 if there is one."""
    expected = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["catalogue"]
    begin = time.perf_counter()
    total_bad = 0
    for shelf, tests in expected.items():
        name, *rest = shelf.split("/")
        paths = find(Path(sys.argv[2], name, "tests", *rest))
        bad = 0
        slowest = (0.0, "")
        for title, row in tests.items():
            started = time.perf_counter()
            try:
                result = litmus.run(paths[title].read_text(encoding="utf-8"), str(paths[title]))
                got = (result.observation, len(result.states))
            except LitmusError as error:
                got = (str(error), 0)
            slowest = max(slowest, (time.perf_counter() - started, title))
            if got != (row["observation"], row["states"]):
                bad += 1
                click.echo(f"  {shelf} {title}: herd7 {row['observation']} {row['states']}, fuzzvm {got[0]} {got[1]}")
        total_bad += bad
        click.echo(f"{shelf}: {len(tests) - bad} of {len(tests)} agree; slowest {slowest[1]} {slowest[0]:.2f} s")
    click.echo(f"{time.perf_counter() - begin:.1f} s")
    return 1 if total_bad else 0


if __name__ == "__main__":
    sys.exit(main())
