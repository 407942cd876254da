"""The command line, but a campaign gives what is under way all the time there is after the first Ctrl-C.

`python tests/campaigns/patient.py FILE COMMAND…` writes FILE when a campaign begins to wait for that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzzvm.campaigns import run
from fuzzvm.campaigns.cluster.executor import RemoteExecutor
from fuzzvm.campaigns.local import LocalExecutor
from fuzzvm.cli.main import main

SCRIPT = Path(__file__)


def tell(executor: type[Any], file: Path) -> None:
    """Let executors of that class write a file when they are closed with time left."""
    close = executor.close

    def told(self: Any, seconds: float) -> Sequence[object]:
        if seconds:
            file.touch()
        ended: Sequence[object] = close(self, seconds)
        return ended

    executor.close = told


if __name__ == "__main__":
    file = Path(sys.argv.pop(1))
    run.GRACE = 1_000_000.0
    for executor in (LocalExecutor, RemoteExecutor):
        tell(executor, file)
    main()
