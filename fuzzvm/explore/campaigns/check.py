"""Does a test case go the same way in another process? `python -m fuzzvm.explore.campaigns.check` is that process.

It gets `{"case": TEXT, "mitigation": NAME, "files": {NAME: [PATH, TEXT]}}` as JSON on standard input, replays the case
twice, and prints what came of each: what a mitigation keeps from run to run shows between the two, and what depends on
the order of a set, on an address or on the time shows between the processes, which have different hash seeds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from fuzzvm.corpus import store
from fuzzvm.corpus.format import TestCase, parse
from fuzzvm.corpus.replay import ending, run
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError, ScheduleError
from fuzzvm.machine.trace import digest
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.scenario.errors import ScenarioError

REPLAYS = 2
ATTEMPTS = 10
"""Times that the other process is started, if it is killed; that says nothing of the case."""
SECONDS = 60.0
"""For both replays and the start of the process; they take half a second."""


def differs(case: TestCase, mitigation: type[Mitigation]) -> str:
    """Return what a test case did otherwise here or in another process, in one line; '' where nothing.

    Raises RuntimeError where the other process cannot do its work, and what `registry.get` raises.
    """
    here = outcome(case, mitigation)
    there = _elsewhere(case)
    for number, got in enumerate((here, *there)):
        where = f"replay {number} in another process" if number else "a replay in the process that found it"
        if got[0] != str(case.expect):
            return f"{where} gave {got[0]}, and not {case.expect}"
        if got != here:
            return f"{where} came to the same end by other steps"
    return ""


def outcome(case: TestCase, mitigation: type[Mitigation]) -> tuple[str, str]:
    """Return what a replay comes to in words, and the digest of its steps."""
    try:
        machine, execution = run(case, mitigation, tracing=True)
    except (ProgramError, ScenarioError, ScheduleError) as error:
        return str(error), ""
    failure = execution.failure
    said = "no failure" if failure is None else f"{failure.error} in {failure.function or 'the run as a whole'}"
    return said, digest(machine.trace or (), ending(failure))


def _elsewhere(case: TestCase) -> list[tuple[str, str]]:
    # latin-1 takes every byte as it is, whatever the text is encoded in
    files = {name: (file.path, file.text.decode("latin-1")) for name, file in sent_files.provided().items()}
    question = json.dumps({"case": store.to_text(case), "mitigation": case.mitigation, "files": files})
    for _ in range(ATTEMPTS):
        try:
            done = subprocess.run(
                [sys.executable, "-m", "fuzzvm.explore.campaigns.check"],
                input=question,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONHASHSEED": "random", "PYTHONPATH": os.pathsep.join(sys.path)},
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [(f"nothing within {SECONDS:g} seconds", "")]
        if done.returncode >= 0:
            break
    if done.returncode != 0:
        raise RuntimeError(f"the process that replays ended with status {done.returncode}: {done.stderr}")
    return [(said, steps) for said, steps in json.loads(done.stdout)]


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    sent = question["files"].items()
    sent_files.provide({name: sent_files.SentFile(path, text.encode("latin-1")) for name, (path, text) in sent})
    case = parse(question["case"])
    mitigation = registry.get(question["mitigation"])
    json.dump([outcome(case, mitigation) for _ in range(REPLAYS)], sys.stdout)


if __name__ == "__main__":
    main()
