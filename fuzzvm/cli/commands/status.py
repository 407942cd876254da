"""`fuzzvm status`."""

from __future__ import annotations

from pathlib import Path

import click

from fuzzvm.campaigns import status as statuses
from fuzzvm.cli.campaign import print_campaign, print_progress
from fuzzvm.cli.common import json_option, print_json
from fuzzvm.cli.output import say


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
def status(folder: Path, as_json: bool) -> int:
    """Say how far the campaign in FOLDER has come: while it runs, after it has ended, and after it was killed.

    It only reads, and never holds up the campaign. The exit status is 0 whatever was found.

    \b
    fuzzvm status weekend
    watch -n 10 fuzzvm status weekend
    fuzzvm status weekend --json | jq .runs_per_second
    """
    found = statuses.read(folder)
    if as_json:
        print_json(found.to_data())
        return 0
    print_progress(found)
    say()
    print_campaign(found)
    return 0
