"""`fuzzvm replay PATH…`."""

from __future__ import annotations

from pathlib import Path

import click

from fuzzvm.cli.code import images_option
from fuzzvm.cli.common import json_option, print_json
from fuzzvm.cli.output import say
from fuzzvm.corpus import store
from fuzzvm.corpus.format import read
from fuzzvm.corpus.replay import ReplayResult, given_for
from fuzzvm.corpus.replay import replay as replay_case
from fuzzvm.images.given import by_digest
from fuzzvm.mitigations import registry


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option(
    "--mitigation",
    "--release",
    "-m",
    "mitigation_name",
    metavar="NAME|FILE.py:CLASS",
    help="Run under this mitigation or release instead of the one that each file names.",
)
@images_option
@click.option("--quiet", "-q", is_flag=True, help="Print only what is not as expected.")
@json_option
def replay(
    paths: tuple[Path, ...], mitigation_name: str | None, folders: tuple[Path, ...], quiet: bool, as_json: bool
) -> int:
    """Replay corpus files, or every one below a folder, against their expected outcome.

    A file that a schedule no longer fits is reported and counts as not as expected. A file of a kernel image needs
    that image.
    """
    given = None if mitigation_name is None else registry.get(mitigation_name)
    of_images = by_digest(folders)
    files = list(store.find(paths))
    results: list[tuple[Path, ReplayResult]] = []
    for path in files:
        case = read(path)
        code = given if case.image is None else given_for(case, of_images)
        result = replay_case(case, code, counting=as_json)
        results.append((path, result))
        if not as_json and not (quiet and result.as_expected):
            say(f"{path}: {'ok, ' + str(result.got) if result.as_expected else result.problem}")
    wrong = sum(not result.as_expected for _, result in results)
    if as_json:
        print_json(
            {
                "replayed": len(results),
                "not_as_expected": wrong,
                "results": [
                    {
                        "file": str(path),
                        "as_expected": result.as_expected,
                        "verdict": None if result.got is None else result.got.verdict,
                        "bug": result.got.error or None if result.got is not None else None,
                        "problem": result.problem or None,
                        "counters": None if result.counters is None else result.counters.to_data(),
                    }
                    for path, result in results
                ],
            }
        )
    elif not quiet:
        say(f"{len(results)} replayed, {wrong} not as expected")
    return 1 if wrong else 0
