"""Measures agreement with herd7 on the litmus tests of herdtools7.

    python benchmarks/litmus_catalogue.py CATALOGUE [SHELF...]
    python benchmarks/litmus_catalogue.py EXPECTED.json CATALOGUE

CATALOGUE is the folder `catalogue` of herdtools7. Without EXPECTED, each test of a shelf (all of AArch64's without
VMSA, MTE, PAC and GCS if none is named) is compared with the shelf's own `kinds.txt`, and, where herd7 is on PATH, with
its final states. EXPECTED maps shelf -> test -> {"observation", "states"} under the key "catalogue"; a test is found by
its file's name, else by its title.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from fuzzvm import litmus
from fuzzvm.litmus import LitmusError, Result
from fuzzvm.litmus.herd_output import state_lines

SHELVES = (
    *("aarch64", "aarch64-BBM", "aarch64-cas", "aarch64-down-one-leg", "aarch64-ETS2", "aarch64-ETS3"),
    *("aarch64-faults", "aarch64-ifetch", "aarch64-mixed", "aarch64-oban", "aarch64-pick", "aarch64-readers-guide"),
)
OTHER_MODELS = {"aarch64-down-one-leg"}
"""Shelves whose kinds are those of a model of their own, and not of aarch64.cat."""
VARIANTS = {"aarch64-ifetch": "ifetch,fatal", "aarch64-mixed": "mixed", "aarch64-VMSA": "vmsa,fatal"}
"""What herd7 is told of a shelf, beside what its tests say of themselves."""
MAX_SECONDS = 60


def find(folder: Path) -> dict[str, Path]:
    """Return the tests of a folder by title and by file name; file names win."""
    files = sorted(folder.rglob("*.litmus"))
    titles = {path.read_text(encoding="utf-8").split(maxsplit=2)[1]: path for path in reversed(files)}
    return titles | {path.stem: path for path in files}


def kinds(shelf: Path) -> dict[Path, str]:
    """Return what the tables of a shelf say of its tests: Allowed, Forbidden or Required."""
    found = {}
    for table in sorted(shelf.rglob("*kinds*.txt")):
        paths = find(table.parent)
        for line in table.read_text(encoding="utf-8").splitlines():
            title, kind, *_ = [*line.split(), "", ""]
            if title in paths:
                found[paths[title]] = kind
    return found


def as_kind(result: Result) -> str:
    """Return the kind of a test: whether its proposition can hold; for `forall`, whether it must."""
    if result.quantifier == "forall":
        return "Required" if result.ok else "Allowed"
    return {"Never": "Forbidden"}.get(result.observation, "Allowed")


def herd7(path: Path, shelf: str) -> list[str] | None:
    """Return the final states that herd7 finds; None where it finds none or is not there."""
    command = shutil.which("herd7")
    if command is None:
        return None
    variant = VARIANTS.get(shelf)
    done = subprocess.run(
        [command, *(["-variant", variant] if variant else []), str(path)], capture_output=True, text=True, check=False
    )
    match = re.search(r"^States \d+\n((?:.*;\s*\n)*)(?:Loop )?(?:Ok|No)$", done.stdout, re.MULTILINE)
    return None if match is None else [line.strip() for line in match[1].splitlines()]


def compare(shelf: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield each test of a shelf with what became of it (agree, DISAGREE, refused, not compared) and why."""
    claimed = {} if shelf.name in OTHER_MODELS else kinds(shelf)
    for path in sorted(shelf.rglob("*.litmus")):
        try:
            result = litmus.run(path.read_text(encoding="utf-8"), str(path), max_seconds=MAX_SECONDS)
        except LitmusError as error:
            yield path, "refused", error.message
            continue
        states = herd7(path, shelf.name)
        kind = claimed.get(path, "")
        if result.verdict in ("Undecided", "Vacuous"):
            yield path, "DISAGREE", f"{result.verdict} {result.stopped}"
        elif kind and kind[:5] != as_kind(result)[:5]:
            yield path, "DISAGREE", f"kind {kind}, fuzzvm {as_kind(result)}"
        elif states is not None and set(states) != set(state_lines(result)):
            yield path, "DISAGREE", f"herd7 {states}, fuzzvm {state_lines(result)}"
        else:
            yield path, "agree" if kind or states is not None else "not compared", ""


def shelves(catalogue: Path, names: tuple[str, ...]) -> int:
    """Print what became of the tests of some shelves; return 1 if one disagrees."""
    bad = 0
    for name in names:
        if not (catalogue / name).is_dir():
            raise SystemExit(f"{catalogue / name}: no such folder")
        counted: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for path, outcome, why in compare(catalogue / name):
            counted[outcome] += 1
            if outcome == "refused":
                reasons[why] += 1
            elif why:
                click.echo(f"  {path.relative_to(catalogue)}: {why}")
        bad += counted["DISAGREE"]
        click.echo(f"{name}: " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items())))
        for why, number in reasons.most_common():
            click.echo(f"  {number} refused: {why}")
    return 1 if bad else 0


def expected(table: Path, catalogue: Path) -> int:
    """Print every disagreement with a table of herd7's results; return 1 if there is one."""
    begin = time.perf_counter()
    total_bad = 0
    for shelf, tests in json.loads(table.read_text(encoding="utf-8"))["catalogue"].items():
        name, *rest = shelf.split("/")
        paths = find(Path(catalogue, name, "tests", *rest))
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


def main(arguments: list[str]) -> int:
    """Compare as the module says."""
    first, *rest = arguments
    if first.endswith(".json"):
        return expected(Path(first), Path(rest[0]))
    return shelves(Path(first), tuple(rest) or SHELVES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
