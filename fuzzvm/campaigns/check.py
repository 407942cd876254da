"""Does a test case go the same way in another process? `python -m fuzzvm.campaigns.check` is that process.

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
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.supervision.interpreter import environment, python
from fuzzvm.verify.determinism.elsewhere import other_seeds
from fuzzvm.verify.determinism.replaying import outcome
from fuzzvm.verify.determinism.sources import is_users, makes_sets

REPLAYS = 2
ATTEMPTS = 10
"""Times that the other process is started, if it is killed; that says nothing of the case."""
SECONDS = 60.0
"""For both replays and the start of the process; they take half a second."""


def differs(case: TestCase, mitigation: type[Mitigation]) -> str:
    """Return what a test case did otherwise here or in another process, in one line; '' where nothing.

    Raises RuntimeError where the other process cannot do its work and no code of the user's is in it, and what
    `registry.get` raises.
    """
    here = outcome(case, mitigation)
    if here[0] != str(case.expect):
        return f"a replay in the process that found it gave {here[0]}, and not {case.expect}"
    # of two orders of a set, each hash seed has either
    seeds = other_seeds()
    users = is_users(mitigation)
    for seed in seeds if users and makes_sets(mitigation) else seeds[:1]:
        for number, got in enumerate(_elsewhere(case, seed, users=users), 1):
            if got[0] != str(case.expect):
                return f"replay {number} in another process gave {got[0]}, and not {case.expect}"
            if got != here:
                return f"replay {number} in another process came to the same end by other steps"
    return ""


def _elsewhere(case: TestCase, seed: str, *, users: bool) -> list[tuple[str, str]]:
    question = json.dumps({"case": store.to_text(case), "mitigation": case.mitigation, "files": sent_files.to_data()})
    for _ in range(ATTEMPTS):
        try:
            done = subprocess.run(
                python("-m", "fuzzvm.campaigns.check"),
                input=question,
                capture_output=True,
                text=True,
                env=environment(PYTHONHASHSEED=seed),
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [(f"nothing within {SECONDS:g} seconds", "")]
        if done.returncode >= 0:
            break
    # whatever its status is: code of the user may end it with any
    if not done.stdout and users:
        last = (done.stderr.splitlines() or [""])[-1]
        return [(f"nothing: it ended with status {done.returncode}{last and f', {last}'}", "")]
    if done.returncode != 0:
        raise RuntimeError(f"the process that replays ended with status {done.returncode}: {done.stderr}")
    return [(said, steps) for said, steps in json.loads(done.stdout)]


def main() -> None:
    """Answer the question on standard input."""
    # what code of the user prints is no answer
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    question = json.load(sys.stdin)
    sent_files.provide_data(question["files"])
    case = parse(question["case"])
    mitigation = registry.get(question["mitigation"])
    outcomes = [outcome(case, mitigation) for _ in range(REPLAYS)]
    with out:
        json.dump(outcomes, out)


if __name__ == "__main__":
    main()
