"""A project that uses the plugin: pytest in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHANGES_WHAT_IS_PRINTED = ("BUILD_NUMBER", "CI", "COLUMNS", "HYPOTHESIS", "PYTEST")
"""How the names of variables begin that change it: where CI is set, pytest repeats each message in its summary."""


def pytest_in(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run pytest in a folder, with the plugin; return its exit status and what it printed."""
    command = [sys.executable, "-m", "pytest", "-p", "fuzzvm.pytest_plugin", "-p", "no:cacheprovider", *arguments]
    ran = subprocess.run(
        command,
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith(CHANGES_WHAT_IS_PRINTED)}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr
