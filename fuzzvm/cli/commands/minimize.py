"""`fuzzvm minimize FILE`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from fuzzvm.cli.code import given_code, image_option
from fuzzvm.cli.common import json_option, print_json, progress_console
from fuzzvm.cli.output import say, say_text
from fuzzvm.corpus import store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import read
from fuzzvm.files.writing import write
from fuzzvm.machine.schedule import context_switches, format_schedule
from fuzzvm.runs.minimise.minimiser import DEFAULT_BUDGET, NotFailingError, minimise


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option("--mitigation", "-m", "mitigation_name", metavar="FILE.py:CLASS", help="Needed for one of your own.")
@image_option
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=DEFAULT_BUDGET,
    show_default=True,
    help="Machine steps that may be spent. A number and not a time, so that the result is the same everywhere.",
)
@json_option
def minimize(
    file: Path, output: Path | None, mitigation_name: str | None, folder: Path | None, budget: int, as_json: bool
) -> int:
    """Find the shortest test case that fails as FILE does: context switches, then steps, then scenario.

    Keeps the error's id and the function that it happens in. Prints the result unless -o is given. The scenario of a
    kernel image's run stays as it is.
    """
    case = read(file)
    code = given_code(case, mitigation_name, folder)
    console = progress_console()
    try:
        with console.status("minimising") as status:
            minimised = minimise(case, code, budget=budget, progress=lambda name: status.update(f"minimising: {name}"))
    except NotFailingError as error:
        raise CorpusError(file, str(error)) from error
    origin = f"{case.origin}; " if case.origin and minimised.how not in case.origin else ""
    result = replace(minimised.case, origin=f"{origin}minimised, {minimised.how}" if origin else case.origin)
    if output is not None:
        write(output, store.to_text(result))
    if as_json:
        print_json(
            {
                "proven_minimal": minimised.proven,
                "context_switches": [context_switches(case.schedule), context_switches(result.schedule)],
                "steps": [len(case.schedule), len(result.schedule)],
                "schedule": format_schedule(result.schedule),
                "output": None if output is None else str(output),
            }
        )
    elif output is None:
        say_text(store.to_text(result))
    else:
        before, after = context_switches(case.schedule), context_switches(result.schedule)
        say(
            f"{output}: {before} -> {after} context switches, {len(case.schedule)} -> {len(result.schedule)} steps, "
            f"{minimised.how}"
        )
    return 0
