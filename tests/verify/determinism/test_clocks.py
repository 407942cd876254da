"""What asks for the time or for random numbers is noted, with the line of the user's code; what else does is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
from fuzzvm.verify.determinism import clocks
calls = clocks.install()
made = []
for text in json.load(sys.stdin):
    exec(compile(text, "asks.py", "exec"), {"__name__": "asks"})
    made.append(calls.take())
json.dump(made, sys.stdout)
"""
ASKS = {
    "import time\ntime.time()": "time.time",
    "from time import monotonic_ns as now\nnow()": "time.monotonic_ns",
    "import datetime\ndatetime.datetime.now()": "datetime.datetime.now",
    "from datetime import date\ndate.today()": "datetime.date.today",
    "import random\nrandom.choice([1, 2])": "random.choice",
    "from random import random\nrandom()": "random.random",
    "import random\nrandom.Random(1).randrange(4)": "random.Random.getrandbits",
    "import os\nos.urandom(4)": "os.urandom",
    "import secrets\nsecrets.token_hex(4)": "random.SystemRandom.randbytes",
    "import uuid\nuuid.uuid4()": "os.urandom",
}
ASKS_NOT = [
    "import logging\nlogging.getLogger().error('a line')",
    "sorted({3, 1})",
    "import datetime\ndatetime.datetime(2020, 1, 1).isoformat()",
    "import random\nrandom.seed(4)",
]


def test_calls() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([*ASKS, *ASKS_NOT]),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    made = json.loads(done.stdout)
    for (text, what), calls in zip(ASKS.items(), made, strict=False):
        assert calls and calls[0] == [what, "asks.py", 2], text
    assert made[len(ASKS) :] == [[]] * len(ASKS_NOT)
