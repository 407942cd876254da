"""`fuzzvm export FILE --to FORMAT`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from fuzzvm.cli.code import given_code, image_option
from fuzzvm.cli.exported_stress import stress
from fuzzvm.cli.output import say, say_text
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.export.aarch64 import aarch64
from fuzzvm.export.exported_test import exported_test_of
from fuzzvm.export.lkmm import lkmm
from fuzzvm.export.promela import MAX_STATES, promela
from fuzzvm.export.stress import RUNNABLE
from fuzzvm.files.folder import check_new, write_folder
from fuzzvm.files.writing import write
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ScheduleError
from fuzzvm.mitigations import registry


def _litmus(case: TestCase, mitigation: type[Mitigation], max_states: int) -> str:
    return aarch64(exported_test_of(case, mitigation))


def _lkmm(case: TestCase, mitigation: type[Mitigation], max_states: int) -> str:
    return lkmm(exported_test_of(case, mitigation))


_STRESS = "stress"
_FORMATS: dict[str, Callable[[TestCase, type[Mitigation], int], str]] = {
    "litmus": _litmus,
    "lkmm": _lkmm,
    "promela": promela,
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, type=click.Choice([*_FORMATS, _STRESS]), help="What to write; see below.")
@click.option(
    "-o",
    "out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Default: standard output. With --to stress: a new folder, which must be given.",
)
@click.option("--mitigation", "-m", "mitigation_name", metavar="FILE.py:CLASS", help="Needed for one of your own.")
@image_option
@click.option(
    "--max-states",
    type=click.IntRange(min=1),
    default=MAX_STATES,
    show_default=True,
    help="With --to promela: the largest model to write.",
)
def export(
    file: Path, form: str, out: Path | None, mitigation_name: str | None, folder: Path | None, max_states: int
) -> int:
    """Write a test case in the language of another tool.

    \b
    litmus   what the run asks, as an AArch64 litmus test for herd7 or fuzzvm litmus
    lkmm     the same as a C litmus test for the kernel's memory model
    promela  the whole scenario, whatever its schedule, as a model for Spin
    stress   the scenario's calls as a kernel module and a program, to run on a kernel until it reports
    """
    if form == _STRESS:
        if out is None:
            raise click.UsageError("--to stress writes a folder: -o DIR names it")
        check_new(out)
    case = read(file)
    code = given_code(case, mitigation_name, folder)
    if form != _STRESS and not isinstance(code, type):
        raise registry.MitigationError(f"the test case is of {case.image}: --to {form} is not there for kernel images")
    try:
        if form == _STRESS:
            assert out is not None
            write_folder(out, stress(case, code, file), RUNNABLE)
            say(f"written: {out}")
            return 0
        assert isinstance(code, type)
        text = _FORMATS[form](case, code, max_states)
    except ScheduleError as error:
        raise CorpusError(file, f"no longer replays: {error}") from error
    if out is None:
        say_text(text)
    else:
        write(out, text)
        say(f"written: {out}")
    return 0
