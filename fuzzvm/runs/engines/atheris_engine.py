"""The engine `atheris`: coverage-guided, with interleaving coverage beside code coverage, in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.schedule import format_schedule, parse_schedule
from fuzzvm.mitigations import sent_files
from fuzzvm.runs.engines import EngineError, FuzzSearch
from fuzzvm.runs.happened import Happened
from fuzzvm.scenario.system import System
from fuzzvm.supervision import inside
from fuzzvm.supervision.channel import LOOK_SECONDS, Channel
from fuzzvm.supervision.errors import UserCodeError
from fuzzvm.supervision.interpreter import environment, python
from fuzzvm.supervision.outside import Watched


class AtherisEngine:
    """Atheris and its libFuzzer."""

    name = "atheris"
    summary = "coverage-guided: plans of the same kind; changes those that brought a new pair of conflicting operations"

    def unavailable(self) -> str:
        if importlib.util.find_spec("atheris") is None:
            return "engine atheris needs the package atheris: pip install 'atheris>=3.0'"
        return ""

    def search(self, systems: Sequence[System], seed: int, search: FuzzSearch) -> None:
        search.tasks = list(systems)
        with tempfile.TemporaryDirectory(prefix="fuzzvm-atheris-") as folder:
            inputs = Path(folder) / "inputs"
            inputs.mkdir()
            log = Path(folder) / "log"
            settings = {
                "systems": [
                    {
                        "scenario": s.scenario.to_data(),
                        "mitigation": s.mitigation_name,
                        "memory": s.memory,
                        "without": s.without,
                    }
                    for s in systems
                ],
                "seed": seed,
                "seconds": search.budget.seconds,
                "runs": search.budget.runs,
                "keep_going": search.keep_going,
                "inputs": str(inputs),
                "seeds": _seeds(systems, search),
                "files": sent_files.to_data(),
            }
            channel = Channel()
            channel.hook_seconds = inside.hook_seconds()
            with log.open("wb") as errors:
                command = python("-m", "fuzzvm.runs.guided.child", str(channel.fd))
                pipe = subprocess.PIPE
                with subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=errors, pass_fds=[channel.fd], env=environment()
                ) as child:
                    watched = Watched(child.pid, channel)
                    try:
                        self._follow(child, watched, settings, systems, search)
                    finally:
                        child.kill()
            trouble = watched.died(child.returncode)
            channel.close()
            if trouble.blames and not search.over:
                raise UserCodeError(trouble.sentence)
            if child.returncode not in (0, -9) or not search.over:
                raise EngineError(_last_lines(log))

    def _follow(
        self,
        child: subprocess.Popen[bytes],
        watched: Watched,
        settings: dict[str, Any],
        systems: Sequence[System],
        search: FuzzSearch,
    ) -> None:
        assert child.stdin is not None
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        child.stdin.close()
        for line in _lines(child, watched):
            message = json.loads(line)
            if "broken" in message:
                raise ProgramError(*message["broken"])
            if "schedule" in message:
                system = systems[message["system"]]
                system.lock_order.watch_for(message["error"])
                # run once more here: what the child saw must hold in this process as well
                execution = execute(system.machine(), Replay(parse_schedule(message["schedule"])))
                search.note(system, execution, message["run"])
            else:
                search.runs, search.steps, search.pairs = message["runs"], message["steps"], message["pairs"]
                search.undiscovered = message["undiscovered"]
                # what the child has seen so far, and not since the last report
                search.happened = Happened()
                for system, (runs, first) in zip(systems, message["happened"], strict=True):
                    search.happened.of(system).add(runs, first)
                search.on_progress(search)
            if search.interrupted:
                return
        # where it has closed its messages, it is about to end
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LOOK_SECONDS)


def _lines(child: subprocess.Popen[bytes], watched: Watched) -> Iterator[bytes]:
    """Yield the lines that a child writes, until it ends or must be ended. Raises UserCodeError."""
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    begun = b""
    while True:
        if not select.select([descriptor], [], [], LOOK_SECONDS)[0]:
            if (trouble := watched.trouble()) is None:
                continue
            if trouble.blames:
                raise UserCodeError(trouble.sentence)
            # its time is over, and it has not noticed
            return
        if not (more := os.read(descriptor, 1 << 16)):
            return
        *lines, begun = (begun + more).split(b"\n")
        yield from lines


def _seeds(systems: Sequence[System], search: FuzzSearch) -> list[tuple[int, str]]:
    """Return the runs to begin with that are of one of the systems, by the system's number."""
    numbers = {system.scenario.anonymous(): number for number, system in enumerate(systems)}
    return [
        (numbers[scenario.anonymous()], format_schedule(schedule))
        for scenario, schedule in search.seeds
        if scenario.anonymous() in numbers
    ]


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "atheris ended early: " + " | ".join(lines[-3:])


ENGINE = AtherisEngine()
