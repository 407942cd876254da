"""`fuzzvm certify`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click

from fuzzvm.cli.common import (
    hook_seconds_option,
    json_option,
    known_release,
    memory_option,
    over,
    print_json,
    scenarios,
    tlb_option,
    without_option,
)
from fuzzvm.cli.output import say
from fuzzvm.exhaustive import Limits
from fuzzvm.exhaustive.limits import bounded_by
from fuzzvm.files.writing import write
from fuzzvm.machine.errors import StoppedError
from fuzzvm.machine.memory import searchable
from fuzzvm.scenario.system import default_memory
from fuzzvm.supervision import inside
from fuzzvm.verify.certify import CertifyError
from fuzzvm.verify.certify import certify as certificate_of
from fuzzvm.verify.matrix import Bounds, Cell, check_runs, verify_cell


@click.command()
@click.option(
    "--mitigation", "-m", "mitigation_name", metavar="NAME|FILE.py:CLASS", help="Mitigation, or several as one: A+B."
)
@click.option(
    "--release",
    "release_name",
    metavar="NAME",
    callback=known_release,
    help="Linux release to run; with --mitigation, that is tried on the release.",
)
@click.option("--scenario", "-s", "scenario_name", required=True, metavar="NAME|FILE.toml", help="Scenario to run.")
@memory_option
@tlb_option
@without_option
@click.option("--max-states", type=click.IntRange(min=1), help="Give up after that many states.")
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Give up after that many seconds.")
@click.option("--max-memory", type=click.IntRange(min=64), metavar="MIB", help="Give up with that much memory.")
@hook_seconds_option
@click.option(
    "-o", "out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="OUT", help="File to write."
)
@json_option
def certify(
    mitigation_name: str | None,
    release_name: str | None,
    scenario_name: str,
    memory: str | None,
    tlb: bool,
    without: tuple[str, ...],
    max_states: int | None,
    max_seconds: float | None,
    max_memory: int | None,
    hook_seconds: float | None,
    out: Path,
    as_json: bool,
) -> int:
    """Verify one system, and write a certificate of the verdict that `fuzzvm-check` accepts.

    The certificate of `safe` lists every state, that of a bug its schedule. There is none of a verdict that proves
    nothing: one that a bound has cut, or that is vacuous.

    \b
    fuzzvm certify -m static-key -s pmd-promotion --memory arm64 -o static-key.cert
    fuzzvm-check static-key.cert
    """
    names = over((release_name,) if release_name else (), (mitigation_name,) if mitigation_name else ())
    if not names:
        raise click.UsageError("--mitigation or --release is needed")
    (scenario,) = scenarios((scenario_name,), tlb=tlb)
    memory = memory or default_memory(scenario)
    if not searchable(memory):
        raise click.UsageError(f"memory model {memory} cannot be searched exhaustively")
    inside.let_hooks_take(hook_seconds)
    cell = Cell(names[0], scenario, memory, tuple(dict.fromkeys(without)))
    limits = Limits(max_states, max_seconds, None if max_memory is None else max_memory << 20)
    began = time.monotonic()
    run = verify_cell(cell, Bounds(limits))
    check_runs([run], max_seconds)
    left = limits
    if max_seconds is not None:
        seconds = max(0.0, max_seconds - (time.monotonic() - began))
        left = replace(limits, max_seconds=seconds, asked_seconds=max_seconds)
    try:
        with bounded_by(left):
            certificate = certificate_of(cell, run.verdict, left)
    except (CertifyError, StoppedError) as error:
        say(f"{out} not written: {error}", err=True)
        return 1
    write(out, certificate.content)
    if as_json:
        print_json(
            {
                "verdict": run.verdict.verdict,
                "states": certificate.states,
                "states_searched": run.verdict.states,
                "bytes": len(certificate.content),
                "written": str(out),
            }
        )
        return 0
    listed = f"{certificate.states} states, " if certificate.states else ""
    say(f"{run.verdict.verdict}: {listed}{len(certificate.content)} bytes written: {out}")
    return 0
