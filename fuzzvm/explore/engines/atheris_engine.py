"""The engine `atheris`: coverage-guided, with interleaving coverage beside code coverage, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzzvm.explore.engines import EngineError, Search, rotation
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.schedule import format_schedule, parse_schedule
from fuzzvm.scenario.system import System


class AtherisEngine:
    """Atheris and its libFuzzer."""

    name = "atheris"
    summary = "coverage-guided: mutates schedules, keeps those with a new pair of conflicting operations"

    def unavailable(self) -> str:
        if importlib.util.find_spec("atheris") is None:
            return "engine atheris needs the package atheris: pip install 'fuzzvm[fuzz]'"
        return ""

    def search(self, systems: Sequence[System], seed: int, search: Search) -> None:
        systems = rotation(systems)
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
            }
            with log.open("wb") as errors:
                command = [sys.executable, "-m", "fuzzvm.explore.guided.child"]
                pipe = subprocess.PIPE
                # in a session of its own: Ctrl-C is for this process, which ends the child in its own way
                with subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=errors, text=True, start_new_session=True
                ) as child:
                    try:
                        self._follow(child, settings, systems, search)
                    finally:
                        child.kill()
            if child.returncode not in (0, -9) or not search.over:
                raise EngineError(_last_lines(log))

    def _follow(
        self, child: subprocess.Popen[str], settings: dict[str, Any], systems: Sequence[System], search: Search
    ) -> None:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(settings) + "\n")
        child.stdin.close()
        for line in child.stdout:
            message = json.loads(line)
            if "broken" in message:
                raise ProgramError(*message["broken"])
            if "schedule" in message:
                system = systems[message["system"]]
                # run once more here: what the child saw must hold in this process as well
                execution = execute(system.machine(), Replay(parse_schedule(message["schedule"])))
                search.note(system, execution, message["run"])
            else:
                search.runs, search.steps, search.pairs = message["runs"], message["steps"], message["pairs"]
                search.on_progress(search)
            if search.interrupted:
                return
        child.wait()


def _seeds(systems: Sequence[System], search: Search) -> list[tuple[int, str]]:
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
