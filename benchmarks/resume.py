"""Kills a run of `fuzzvm verify` again and again, and goes on: is the verdict that of a run that nobody killed?

    python benchmarks/resume.py OUT.json [--kills N] [--least S] [--most S] [--seed N] -- VERIFY-OPTION...

    python benchmarks/resume.py out.json -- -m static-key -s walkers-3.toml --memory sc --no-reduction

Runs `fuzzvm verify` with these options once to its end, and once with `--checkpoint`, where each process gets SIGKILL
between `--least` and `--most` seconds after it has gone on, N times in all (20). Of each kill it notes how old the last
checkpoint was, which is the time that is lost, and how long the next process took until it went on, as that says
itself. At the end it compares verdict, states, transitions, schedule. Ends with status 1 where one differs.

`--python-loop` leaves the compiled loop out, as if the extra `fast` were not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAME = ("verdict", "bug", "function", "schedule", "states", "transitions", "complete")
GOES_ON = re.compile(r"goes on after ([0-9.]+) s")
PYTHON_LOOP = "from fuzzvm.exhaustive import search; search.has_compiled = lambda: False; "
MAIN = "from fuzzvm.cli.main import main; main()"


class Commands:
    """Runs `fuzzvm verify`; `cpu` are the seconds of processor time of what was run last."""

    def __init__(self, *, python_loop: bool) -> None:
        self._command = [sys.executable, "-P", "-c", (PYTHON_LOOP if python_loop else "") + MAIN, "verify", "--json"]
        self.cpu = 0.0

    def start(self, *options: str, errors: Path) -> subprocess.Popen[str]:
        """Start one; what it says goes to a file."""
        with errors.open("w", encoding="utf-8") as file:
            return subprocess.Popen([*self._command, *options], stdout=subprocess.PIPE, stderr=file, text=True)

    def finished(self, *options: str, errors: Path) -> dict[str, Any]:
        """Run one to its end; return its run."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out, _ = self.start(*options, errors=errors).communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        try:
            (run,) = json.loads(out)["runs"]
        except (ValueError, KeyError) as error:
            raise SystemExit(errors.read_text(encoding="utf-8")) from error
        assert isinstance(run, dict)
        return run


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--least", type=float, default=6.0)
    parser.add_argument("--most", type=float, default=16.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--python-loop", action="store_true")
    parser.add_argument("options", nargs="+")
    asked = parser.parse_args()
    commands = Commands(python_loop=asked.python_loop)
    with tempfile.TemporaryDirectory(prefix="fuzzvm-resume-") as folder:
        errors = Path(folder, "errors")
        whole = commands.finished(*asked.options, errors=errors)
        whole_cpu = commands.cpu
        print(f"whole: {whole['verdict']}, {whole['states']} states, {whole_cpu:.1f} s of processor time", flush=True)  # noqa: T201
        kills = list(_kills(commands, Path(folder, "run"), errors, asked))
        last = commands.finished("--resume", str(Path(folder, "run")), errors=errors)
    differ = [name for name in SAME if last[name] != whole[name]]
    found = {
        "options": asked.options,
        "load": os.getloadavg(),
        "whole": {name: whole[name] for name in SAME} | {"cpu_seconds": whole_cpu},
        "kills": kills,
        "lost_seconds": max((kill["lost"] for kill in kills), default=0.0),
        "read_seconds": max((kill["read"] for kill in kills if kill["read"] is not None), default=0.0),
        "differ": differ,
    }
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(  # noqa: T201
        f"{len(kills)} kills: at most {found['lost_seconds']:.1f} s lost, at most {found['read_seconds']:.1f} s until "
        f"it went on; {'the same' if not differ else f'DIFFERENT: {differ}'}"
    )
    sys.exit(bool(differ))


def _kills(commands: Commands, path: Path, errors: Path, asked: argparse.Namespace) -> Any:
    """Kill so many processes; yield what came of each."""
    turns = random.Random(asked.seed)
    options = [*asked.options, "--checkpoint", str(path)]
    for number in range(asked.kills):
        began, process = time.time(), commands.start(*options, errors=errors)
        read = None
        begun = False
        while not begun and process.poll() is None:
            time.sleep(0.05)
            said = GOES_ON.search(errors.read_text(encoding="utf-8"))
            read = float(said[1]) if said else None
            begun = read is not None or (not number and path.exists() and path.stat().st_size > 0)
        until = time.monotonic() + turns.uniform(asked.least, asked.most)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is not None:
            # the run has come to its end before all kills
            process.communicate()
            return
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = time.time()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            about = json.loads(connection.execute("SELECT text FROM about").fetchone()[0])
        lost = now - about.get("written", began)
        kill = {"lost": lost, "states": about.get("states", 0), "read": read, "bytes": path.stat().st_size}
        print(f"kill {number + 1}: {kill['states']} states, {lost:.1f} s lost, read in {read} s", flush=True)  # noqa: T201
        yield kill
        options = ["--resume", str(path)]


if __name__ == "__main__":
    main()
