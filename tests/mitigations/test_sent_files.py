"""Texts that stand for files: where they are all there is, and how they reach another process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fuzzvm.supervision.interpreter import environment, python

SCHEME = "from fuzzvm.mitigations.none import NoMitigation\nclass Mine(NoMitigation):\n    name = {name!r}\n"
ASK = """
import json, sys
from fuzzvm.mitigations import registry, sent_files
question = json.load(sys.stdin)
sent_files.provide_data(question["files"])
if question["alone"]:
    sent_files.stand_alone()
try:
    print(registry.get(question["ask"]).name)
except registry.MitigationError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("alone", "ask", "answer"),
    [
        (False, "there.py:Mine", "there"),
        (True, "there.py:Mine", "there.py: no such file"),
        (True, "there.py:Mine+none", "there.py: no such file"),
        (False, "sent.py:Mine", "sent"),
        (True, "sent.py:Mine", "sent"),
    ],
)
def test_what_was_sent_stands_for_the_file(alone: bool, ask: str, answer: str, tmp_path: Path) -> None:
    """On a machine of a cluster nothing else is run: a file that happens to have the name was named by nobody."""
    for name in ("there", "sent"):
        (tmp_path / f"{name}.py").write_text(SCHEME.format(name="there"))
    sent = {"sent.py": ["/elsewhere/sent.py", SCHEME.format(name="sent")]}
    done = subprocess.run(
        python("-c", ASK),
        input=json.dumps({"files": sent, "alone": alone, "ask": ask}),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(answer)
