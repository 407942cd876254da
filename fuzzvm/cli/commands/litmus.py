"""`fuzzvm litmus FILE…`: runs AArch64 litmus tests, prints in herd7's format.

Imports nothing that only the other commands need: a test takes a tenth of a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import click

from fuzzvm.cli.output import say, say_text
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_text
from fuzzvm.litmus import LitmusError, Result, run
from fuzzvm.litmus.herd_output import format_result, state_lines

UNDECIDED = 1
BAD_INPUT = 2
INTERRUPTED = 130
MAX_BYTES = 1 << 20
"""Of a test, which is written by hand: as much as of a test case."""


@click.command(
    epilog="Exit status: 0 each test was explored, whatever its condition says; 1 one is undecided or vacuous; "
    "2 usage, or a test that cannot be run."
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--speedcheck",
    type=click.Choice(["false", "true", "fast"]),
    default="false",
    show_default=True,
    help="As herd7's: true leaves out states that the condition cannot hold in, fast also ends once it is settled.",
)
@click.option("--max-states", type=click.IntRange(min=1), help="Stop each test after that many timelines.")
@click.option(
    "--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Stop each test after that many seconds."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
def litmus(
    files: tuple[Path, ...], speedcheck: str, max_states: int | None, max_seconds: float | None, as_json: bool
) -> int:
    """Say what the final states of AArch64 litmus tests may be.

    Reads herd7's format and prints in it, for each FILE in turn. A test that uses what is not modelled is refused
    with one line on stderr; the others run all the same, and the exit status is 2.

    With --speedcheck it only says whether the condition can hold, which is much quicker where tests are long; the
    states that it prints are not all there are, and Sometimes stands for Always too.

    A test that a bound ended, or that has loops too long to be followed, is Undecided unless what was found settles its
    condition. Where no execution comes to its end the condition is asked of none, and the test is Vacuous.

    \b
    fuzzvm litmus corpus/litmus/ptdump/ptdump.litmus
    fuzzvm litmus --speedcheck fast --max-seconds 60 race.litmus
    """
    results: list[dict[str, object]] = []
    bad = undecided = interrupted = False
    for path in files:
        begin = time.perf_counter()
        try:
            text = read_text(path, MAX_BYTES)
            result = run(text, str(path), speedcheck, max_states=max_states, max_seconds=max_seconds)
        except LitmusError as error:
            say(f"{path}:{error.line}: {error.message}", err=True)
            bad = True
            continue
        except FileError as error:
            say(str(error), err=True)
            bad = True
            continue
        except KeyboardInterrupt:
            if not as_json:
                raise
            interrupted = True
            break
        seconds = time.perf_counter() - begin
        for warning in _warnings(result):
            say(f"{path}: {warning}", err=True)
        undecided |= result.verdict not in ("Ok", "No")
        if as_json:
            results.append(_as_json(path, result, seconds))
        else:
            say_text(format_result(result, seconds))
    if as_json:
        say(json.dumps({"tests": results, "interrupted": interrupted}))
    if interrupted:
        return INTERRUPTED
    return BAD_INPUT if bad else UNDECIDED if undecided else 0


def _warnings(result: Result) -> Iterator[str]:
    """Yield a line for each reason for which a result says less than it seems to."""
    if result.cut:
        yield "loops were not followed to their end; states may be missing"
    if result.stopped:
        yield f"not everything was explored: {result.stopped}"
    if result.vacuous:
        yield "no execution comes to its end; the condition was asked of none"


def _as_json(path: Path, result: Result, seconds: float) -> dict[str, object]:
    return {
        "file": str(path),
        "test": result.name,
        "observation": result.observation,
        "verdict": result.verdict,
        "ok": result.ok,
        "quantifier": result.quantifier,
        "condition": result.condition,
        "positive": result.positive,
        "negative": result.negative,
        "states": state_lines(result),
        "complete": result.complete,
        "bound": result.stopped or None,
        "timelines": result.timelines,
        "seconds": round(seconds, 3),
    }
