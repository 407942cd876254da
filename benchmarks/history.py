"""Checks changes of the past with `fuzzvm check`: those of history/list.toml, each beside the answer that is right.

    python benchmarks/history.py TREE OUT.json [--below DIR] [NAME]...

TREE is Linux 7.3, unpacked; it is not written to. Images are below DIR, those of a base once for all changes on it, so
that each row has the processor seconds of the base's image, measured where it was built, and those of the check. Both
include all children. OUT.json is written after each change. Ends with status 1 where an answer is another one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import click

from fuzzvm.kbuild import patches as patching
from fuzzvm.kbuild import source as sources
from fuzzvm.kbuild.arch import ARM64, X86_64

HISTORY = Path(__file__).parent / "history"
FUZZVM = (sys.executable, "-m", "fuzzvm")


def measured(command: list[str]) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Run a command; return what it printed, its processor seconds with all children, and those of the clock."""
    before, began = os.times(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return done, seconds, time.monotonic() - began


def file(name: str) -> Path:
    return HISTORY / f"{name}.patch"


def tree_of(change: dict[str, Any], tree: Path, below: Path) -> Path:
    """Return the tree before a change: the one that is given, or an overlay of it with the patches of the base."""
    base = change.get("base", [])
    if not base:
        return tree
    into = below / "-".join(base) / "tree"
    if not into.is_dir():
        patches = [patch for name in base for patch in patching.read(file(name))]
        half = into.with_name("half")
        half.parent.mkdir(parents=True, exist_ok=True)
        kernel = X86_64 if change.get("arch") == "x86_64" else ARM64
        sources.overlay(tree, half, kernel, [name for patch in patches for name in patch.files])
        patching.apply(patches, half)
        half.rename(into)
    return into


def checked(name: str, change: dict[str, Any], tree: Path, below: Path, built: dict[str, float]) -> dict[str, Any]:
    """Check one change; return its row."""
    arch = change.get("arch", "arm64")
    source = tree_of(change, tree, below)
    levels = [f"--levels={change['levels']}"] if "levels" in change else []
    out = below / "-".join([*change.get("base", ["given"]), *map(str, [change.get("levels", "")])])
    if str(out / arch) not in built:
        shutil.rmtree(out / arch, ignore_errors=True)
        command = ["image", "build", f"--tree={source}", f"--arch={arch}", "-o", str(out / arch / "base"), *levels]
        done, built[str(out / arch)], _ = measured([*FUZZVM, *command])
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr.strip()}")
    command = ["check", f"--tree={source}", f"--patch={file(change.get('patch', name))}", f"--arch={arch}"]
    command += [*levels, *([f"--scenario={HISTORY / change['scenario']}"] if "scenario" in change else [])]
    done, seconds, clock = measured([*FUZZVM, *command, "-o", str(out), "--json"])
    if not done.stdout:
        raise SystemExit(f"{name}: {done.stderr.strip()}")
    data = json.loads(done.stdout)
    return {
        "change": name,
        "expected": change["answer"],
        "answer": data["answer"],
        "why": data["why"],
        "bugs": sorted({str(pair["after"]["bug"]) for pair in data["pairs"] if pair["after"] and pair["after"]["bug"]}),
        "pairs": len(data["pairs"]),
        "base_seconds": round(built[str(out / arch)], 1),
        "check_seconds": round(seconds, 1),
        "clock_seconds": round(clock, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--below", type=Path, default=Path("history-images"))
    asked = parser.parse_intermixed_args()
    changes: dict[str, dict[str, Any]] = tomllib.loads((HISTORY / "list.toml").read_text(encoding="utf-8"))
    if unknown := set(asked.names) - set(changes):
        parser.error(f"no change {', '.join(sorted(unknown))}; there are {', '.join(changes)}")
    if not asked.tree.is_dir():
        parser.error(f"{asked.tree}: no such folder")
    built: dict[str, float] = {}
    rows = []
    for name in asked.names or changes:
        rows.append(row := checked(name, changes[name], asked.tree.resolve(), asked.below.resolve(), built))
        right = "right" if row["answer"] == row["expected"] else f"WRONG, expected {row['expected']}"
        click.echo(f"{name}: {row['answer']} ({right}), {row['base_seconds']} + {row['check_seconds']} s")
        asked.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["answer"] != row["expected"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
