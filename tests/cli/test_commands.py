"""The commands as a whole: each is found, has help, and imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fuzzvm.cli.main import cli

COMMANDS = cli.list_commands(click.Context(cli))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None and found.help


def test_the_help_names_every_command_and_the_exit_statuses() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "--help"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    listed = [line.split()[0] for line in ran.stdout.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert [name for name in listed if name in COMMANDS] == COMMANDS
    assert "Exit status" in ran.stdout


@pytest.mark.parametrize("command", ["mitigations", "releases", "scenarios"])
def test_a_reader_that_has_seen_enough_is_no_error(command: str) -> None:
    """Unbuffered: the command's own writes fail, and not only the flush at its end."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-u", "-m", "fuzzvm", command],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
