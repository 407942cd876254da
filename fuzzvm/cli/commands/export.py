"""`fuzzvm export FILE --to FORMAT`."""

from __future__ import annotations

from pathlib import Path

import click

from fuzzvm.cli.code import refuse_image
from fuzzvm.cli.output import say, say_text
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.export.aarch64 import aarch64
from fuzzvm.export.exported_test import exported_test_of
from fuzzvm.export.lkmm import lkmm
from fuzzvm.export.promela import MAX_STATES, promela
from fuzzvm.files.writing import write
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ScheduleError
from fuzzvm.mitigations import registry


def _litmus(case: TestCase, mitigation: type[Mitigation], max_states: int) -> str:
    return aarch64(exported_test_of(case, mitigation))


def _lkmm(case: TestCase, mitigation: type[Mitigation], max_states: int) -> str:
    return lkmm(exported_test_of(case, mitigation))


_FORMATS = {"litmus": _litmus, "lkmm": _lkmm, "promela": promela}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, type=click.Choice(list(_FORMATS)), help="What to write; see below.")
@click.option(
    "-o", "out", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT", help="Default: standard output."
)
@click.option("--mitigation", "-m", "mitigation_name", metavar="FILE.py:CLASS", help="Needed for one of your own.")
@click.option(
    "--max-states",
    type=click.IntRange(min=1),
    default=MAX_STATES,
    show_default=True,
    help="With --to promela: the largest model to write.",
)
def export(file: Path, form: str, out: Path | None, mitigation_name: str | None, max_states: int) -> int:
    """Write a test case in the language of another tool.

    \b
    litmus   what the run asks, as an AArch64 litmus test for herd7 or fuzzvm litmus
    lkmm     the same as a C litmus test for the kernel's memory model
    promela  the whole scenario, whatever its schedule, as a model for Spin
    """
    case = read(file)
    refuse_image(case, "fuzzvm export")
    mitigation = mitigation_of(case, None if mitigation_name is None else registry.get(mitigation_name))
    try:
        text = _FORMATS[form](case, mitigation, max_states)
    except ScheduleError as error:
        raise CorpusError(file, f"no longer replays: {error}") from error
    if out is None:
        say_text(text)
    else:
        write(out, text)
        say(f"written: {out}")
    return 0
