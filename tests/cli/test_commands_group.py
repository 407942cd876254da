"""Help and completion without an import of the commands."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from fuzzvm.cli.commands_group import COMPLETION_WIDTH, summary
from fuzzvm.cli.main import cli
from tests.clock import PATIENCE

NAMES = cli.list_commands(click.Context(cli))


@pytest.mark.parametrize("arguments", ["['--help']", "['--version']"])
def test_neither_help_nor_version_imports_a_command(arguments: str) -> None:
    program = (
        f"import sys\nfrom fuzzvm.cli.main import cli\ncli.main({arguments}, standalone_mode=False)\n"
        "print(sorted(name for name in sys.modules if name.startswith(('fuzzvm.', 'rich', 'hypothesis', 'numpy'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = done.stdout.splitlines()[-1]
    assert "fuzzvm.cli.main" in imported
    for name in ("fuzzvm.cli.commands.", "fuzzvm.machine", "fuzzvm.kernel", "rich", "hypothesis", "numpy"):
        assert name not in imported


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [COMPLETION_WIDTH, 60, 200])
def test_what_is_read_from_the_source_is_what_click_says(name: str, limit: int) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert summary(name, limit) == command.get_short_help_str(limit)


def test_the_help_is_that_of_click() -> None:
    context = click.Context(cli, info_name="fuzzvm")
    whole, formatter = context.get_help(), context.make_formatter()
    click.Group.format_commands(cli, context, formatter)
    assert formatter.getvalue().strip() in whole


def test_completion_knows_every_command() -> None:
    found = cli.shell_complete(click.Context(cli), "")
    assert [item.value for item in found if item.type == "plain"][: len(NAMES)] == NAMES
    assert [item.value for item in cli.shell_complete(click.Context(cli), "ver")] == ["verify"]
