"""The command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.clock import PATIENCE


def fuzzvm(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what came of a command; `environment` is beside what this process has."""
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE,
        env=os.environ | environment,
        check=False,
    )
