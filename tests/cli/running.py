"""The command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.clock import PATIENCE


def fuzzvm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Return what came of a command."""
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE,
        check=False,
    )
