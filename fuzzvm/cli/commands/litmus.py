"""`fuzzvm litmus FILE…`: runs AArch64 litmus tests, prints in herd7's format.

Imports nothing that only the other commands need: a test takes a tenth of a second.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from fuzzvm.litmus import LitmusError, Result, run
from fuzzvm.litmus.herd_output import format_result, state_lines

BAD_INPUT = 2


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--speedcheck",
    type=click.Choice(["false", "true", "fast"]),
    default="false",
    show_default=True,
    help="As herd7's: true leaves out states that the condition cannot hold in, fast also ends once it is settled.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
def litmus(files: tuple[Path, ...], speedcheck: str, as_json: bool) -> int:
    """Say what the final states of AArch64 litmus tests may be.

    Reads herd7's format and prints in it, for each FILE in turn. A test that uses what is not modelled is refused
    with one line on stderr; the others run all the same, and the exit status is 2.

    With --speedcheck it only says whether the condition can hold, which is much quicker where tests are long; the
    states that it prints are not all there are, and Sometimes stands for Always too.

    \b
    fuzzvm litmus corpus/litmus/ptdump/ptdump.litmus
    fuzzvm litmus --speedcheck fast race.litmus
    """
    results: list[dict[str, object]] = []
    bad = False
    for path in files:
        begin = time.perf_counter()
        try:
            result = run(path.read_text(encoding="utf-8"), str(path), speedcheck)
        except LitmusError as error:
            click.echo(f"{path}:{error.line}: {error.message}", err=True)
            bad = True
            continue
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            click.echo(f"{path}: {reason}", err=True)
            bad = True
            continue
        seconds = time.perf_counter() - begin
        if result.cut:
            click.echo(f"{path}: loops were not followed to their end; states may be missing", err=True)
        if as_json:
            results.append(_as_json(path, result, seconds))
        else:
            click.echo(format_result(result, seconds), nl=False)
    if as_json:
        click.echo(json.dumps({"tests": results}))
    return BAD_INPUT if bad else 0


def _as_json(path: Path, result: Result, seconds: float) -> dict[str, object]:
    return {
        "file": str(path),
        "test": result.name,
        "observation": result.observation,
        "ok": result.ok,
        "quantifier": result.quantifier,
        "condition": result.condition,
        "positive": result.positive,
        "negative": result.negative,
        "states": state_lines(result),
        "complete": not (result.cut or result.partial),
        "seconds": round(seconds, 3),
    }
