"""`fuzzvm status`."""

from __future__ import annotations

from pathlib import Path

import click

from fuzzvm.campaigns import status as statuses
from fuzzvm.cli.campaign import print_campaign, print_progress
from fuzzvm.cli.common import json_option, print_json
from fuzzvm.cli.output import say
from fuzzvm.files.writing import check_file, write


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT",
    help="Write a page as well, complete in itself: what was seen and found over time, engines, scenarios.",
)
@json_option
def status(folder: Path, html: Path | None, as_json: bool) -> int:
    """Say how far the campaign in FOLDER has come: while it runs, after it has ended, and after it was killed.

    It only reads, and never holds up the campaign. The exit status is 0 whatever was found.

    \b
    fuzzvm status weekend
    watch -n 10 fuzzvm status weekend
    fuzzvm status weekend --json | jq .runs_per_second
    fuzzvm status weekend --html weekend.html
    """
    if html is not None:
        # before the rest: a file that cannot be written is no reason to print figures
        check_file(html)
    found = statuses.read(folder)
    data = found.to_data()
    if html is not None:
        # jinja2 takes a while to load
        from fuzzvm.report.html.campaign_page import campaign_page

        write(html, campaign_page(data))
    if as_json:
        print_json(data)
        return 0
    print_progress(found)
    say()
    print_campaign(found)
    return 0
