"""`fuzzvm scenarios`."""

from __future__ import annotations

import click

from fuzzvm.cli.common import json_option, print_json
from fuzzvm.cli.output import print_table
from fuzzvm.scenario import shipped


@click.command()
@json_option
def scenarios(as_json: bool) -> None:
    """List the scenarios that ship."""
    found = shipped.shipped()
    if as_json:
        print_json({"scenarios": [scenario.to_data() | {"walkers": scenario.walkers} for scenario in found.values()]})
        return
    print_table(
        ("scenario", "arch", "CPUs", "walkers", "what happens"),
        [(name, s.arch, str(len(s.cpus)), str(s.walkers), s.summary) for name, s in found.items()],
    )
