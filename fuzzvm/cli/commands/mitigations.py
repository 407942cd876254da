"""`fuzzvm mitigations`."""

from __future__ import annotations

import click

from fuzzvm.cli.common import json_option, print_json
from fuzzvm.cli.output import print_table
from fuzzvm.mitigations import registry


@click.command()
@json_option
def mitigations(as_json: bool) -> None:
    """List the mitigations and what each claims: for one walker, for two or more, for a walk of another mm."""
    found = registry.available()
    if as_json:
        print_json(
            {
                "mitigations": [
                    {
                        "name": name,
                        "summary": mitigation.summary,
                        "one_walker": mitigation.one_walker,
                        "two_walkers": mitigation.two_walkers,
                        "other_mm": mitigation.other_mm,
                    }
                    for name, mitigation in found.items()
                ]
            }
        )
        return
    print_table(
        ("mitigation", "one walker", "two walkers", "other mm", "what it does"),
        [(name, m.one_walker or "-", m.two_walkers or "-", m.other_mm or "-", m.summary) for name, m in found.items()],
    )
