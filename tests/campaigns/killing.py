"""Runs a campaign at the command line, kills its processes at random with SIGKILL, resumes it, and looks at the folder.

`python -m tests.campaigns.killing KILLS` is the long version; the suite runs a short one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fuzzvm.corpus.format import read
from fuzzvm.corpus.replay import replay
from tests.clock import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """What a killed campaign came to. `wrong` has a line for each promise that was not kept."""

    of_parent: int = 0
    of_workers: int = 0
    sittings: int = 0
    wrong: list[str] = field(default_factory=list)


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Begin a campaign in a folder, or resume it once it is there."""
    if (folder / "settings.json").exists():
        arguments = ("--resume", str(folder))
    else:
        arguments = ("--campaign", str(folder), *arguments)
    return subprocess.Popen(
        [sys.executable, "-m", "fuzzvm", "fuzz", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def children(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            # it has ended meanwhile
            continue
    return found + [further for child in found for further in children(child)]


def workers(pid: int) -> list[int]:
    """Return the processes below that of a command, which its supervisor, the process of that number, has started."""
    command = children(pid)[:1]
    return [further for child in command for further in children(child)]


def alive(pid: int) -> bool:
    """Return whether a process runs, and is not just still to be waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes runs: one that was killed needs a processor once more to end."""
    pids = list(pids)
    wait_until(lambda: not any(map(alive, pids)))


def reported(folder: Path) -> set[str]:
    """Return the findings that a look at the journal names; none where the journal is not there yet."""
    if not (folder / "settings.json").exists():
        return set()
    return {row[0] for row in ask(folder, "SELECT file FROM finding")}


def ask(folder: Path, question: str) -> list[tuple[object, ...]]:
    """Return what a journal answers."""
    connection = sqlite3.connect(folder / "journal.sqlite")
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


def torment(folder: Path, kills: int, seed: int, runs: int, *arguments: str, longest: float = 1.0) -> Outcome:
    """Run a campaign of so many runs to its end, with so many kills on the way; return what came of it."""
    draw = random.Random(seed)
    outcome = Outcome()
    seen: set[str] = set()
    process: subprocess.Popen[bytes] | None = None
    orphans: list[int] = []
    while outcome.of_parent + outcome.of_workers < kills:
        if process is None or process.poll() is not None:
            if process is not None and process.returncode not in (0, 1, -signal.SIGKILL):
                _, said = process.communicate()
                outcome.wrong.append(f"ended with {process.returncode}: {said.decode()}")
                return outcome
            if process is not None and process.returncode in (0, 1):
                # it has finished before all kills were done
                break
            process = start(folder, *arguments, "--runs", str(runs))
            outcome.sittings += 1
        # some hit the beginning of a sitting, the others what it is there for
        if draw.random() < 0.7:
            wait_until(lambda begun=process: workers(begun.pid) or begun.poll() is not None)
        time.sleep(draw.uniform(0, longest))
        seen |= reported(folder)
        inner = workers(process.pid)
        if draw.random() < 0.5 and inner:
            victim = draw.choice(inner)
            outcome.of_workers += 1
        else:
            # the supervisor: all others go with it
            victim = process.pid
            orphans = children(process.pid)
            outcome.of_parent += 1
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        if victim == process.pid:
            process.communicate()
            wait_until_gone(orphans)
    if process is None or process.poll() is None or process.returncode < 0:
        if process is not None and process.poll() is None:
            process.communicate(timeout=PATIENCE)
        if process is None or process.returncode < 0:
            process = start(folder, *arguments, "--runs", str(runs))
            outcome.sittings += 1
    said, error = process.communicate(timeout=PATIENCE)
    if process.returncode not in (0, 1):
        outcome.wrong.append(f"the last sitting ended with {process.returncode}: {error.decode()}")
        return outcome
    outcome.wrong += promises(folder, runs, seen)
    return outcome


def promises(folder: Path, runs: int, seen: set[str]) -> list[str]:
    """Return which promises a finished campaign has not kept. `seen` are the findings that were ever reported."""
    wrong = []
    if ask(folder, "PRAGMA integrity_check") != [("ok",)]:
        wrong.append("the journal is damaged")
    ((done,),) = ask(folder, "SELECT sum(runs) FROM done")
    if done != runs:
        wrong.append(f"{done} runs were counted, and {runs} were to be done")
    ((tasks, numbers),) = ask(
        folder, "SELECT (SELECT sum(tasks) FROM done), (SELECT value - 1 FROM campaign WHERE name = 'next_task')"
    )
    if tasks != numbers:
        wrong.append(f"{numbers} tasks were begun, and {tasks} done")
    if ask(folder, "SELECT * FROM open_task") or ask(folder, "SELECT * FROM failing WHERE state != 'settled'"):
        wrong.append("not everything was finished")
    named = reported(folder)
    there = {path.name for path in (folder / "findings").glob("*.toml")}
    wrong += [f"{name} was reported, and is not there" for name in (seen | named) - there]
    # a file that no row names would be one that a kill has left and nobody has taken up again
    wrong += [f"{name} is there, and not in the journal" for name in there - named]
    for path in [*folder.glob("findings/*"), *folder.glob("corpus/*")]:
        if path.suffix != ".toml":
            wrong.append(f"{path} was left behind")
        elif not replay(read(path)).as_expected:
            wrong.append(f"{path} does not replay")
    if left := [*folder.glob("unsettled/*"), *folder.glob("evidence/*")]:
        wrong.append(f"left behind: {left}")
    return wrong


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    done = 0
    number = 0
    wrong: list[str] = []
    while done < kills:
        number += 1
        with tempfile.TemporaryDirectory(prefix="fuzzvm-kills-") as folder:
            outcome = torment(
                Path(folder) / "campaign",
                min(50, kills - done),
                seed + number,
                20_000,
                *("-m", "none", "-m", "rcu-free", "-s", "pmd-promotion", "-s", "two-walkers", "--memory", "sc"),
                *("--jobs", "2", "--keep-going"),
            )
            done += outcome.of_parent + outcome.of_workers
            wrong += outcome.wrong
            print(json.dumps({"campaign": number, **vars(outcome)}), flush=True)  # noqa: T201 - a script
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
