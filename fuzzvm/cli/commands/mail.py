"""`fuzzvm mail`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fuzzvm.cli.code import given_code, image_option
from fuzzvm.cli.output import say, say_text
from fuzzvm.corpus import store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase, from_bytes
from fuzzvm.export.aarch64 import aarch64
from fuzzvm.export.errors import ExportError
from fuzzvm.export.exported_test import exported_test_of
from fuzzvm.files.reading import read_bytes
from fuzzvm.files.shell import word
from fuzzvm.files.writing import write
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ScheduleError
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.report.check_mail import check_mail
from fuzzvm.report.check_words import FORMAT as CHECK_FORMAT
from fuzzvm.report.image_mail import image_finding
from fuzzvm.report.mail import finding, proof
from fuzzvm.report.story import tell
from fuzzvm.scenario import shipped
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.target import Code

MAX_BYTES = 1 << 24
LITMUS_LINES = 60
"""A litmus test that is longer is not for a mail."""
_NO_PROOF = "nothing goes wrong in this run, and one run is no proof: see `fuzzvm verify --json`"
SAID = ("mitigation", "scenario", "memory", "verdict", "bug", "complete", "states")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--mitigation", "-m", "mitigation_name", metavar="FILE.py:CLASS", help="Needed for one of your own.")
@image_option
@click.option(
    "-o", "out", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT", help="Default: standard output."
)
def mail(file: Path, mitigation_name: str | None, folder: Path | None, out: Path | None) -> int:
    """Write a finding or a proof as plain text for a mailing list, in 72 columns. Nothing is sent.

    FILE is a test case, or what `fuzzvm verify --json` or `fuzzvm check --json` has printed. Of a test case that fails
    the mail has what was run, a report, the interleaving, how to see it again, and the test case itself; of verdicts a
    table, and what `safe` covers; of a check what was tested, verdicts before and after, and the interleaving.

    \b
    fuzzvm mail corpus/findings/none-use-after-free-read-4f5a29210ff8.toml
    fuzzvm mail FILE --image DIR
    fuzzvm verify --release linux-7.3 -s pmd-promotion --json > proof.json; fuzzvm mail proof.json
    """
    raw = read_bytes(file, MAX_BYTES)
    if raw.lstrip().startswith(b"{"):
        if mitigation_name is not None or folder is not None:
            raise click.UsageError("--mitigation and --image are for a test case, and this is JSON of verify or check")
        text = _printed(raw, file)
    else:
        case = from_bytes(raw, file)
        code = given_code(case, mitigation_name, folder)
        try:
            text = _finding(case, code, file) if isinstance(code, type) else _finding_of_image(case, code, file)
        except ScheduleError as error:
            raise CorpusError(file, f"no longer replays: {error}") from error
    if out is None:
        say_text(text.rstrip("\n"))
    else:
        write(out, text)
        say(f"written: {out}")
    return 0


def _finding(case: TestCase, mitigation: type[Mitigation], file: Path) -> str:
    story = tell(case, mitigation)
    if story.failure is None:
        raise CorpusError(file, _NO_PROOF)
    try:
        litmus = aarch64(exported_test_of(case, mitigation))
    except ExportError:
        litmus = ""
    if litmus.count("\n") > LITMUS_LINES:
        litmus = ""
    return finding(story, _reproduce(case), store.to_text(case), litmus)


def _finding_of_image(case: TestCase, code: Code, file: Path) -> str:
    # imported here: ELF, DWARF and disassembly may not be installed
    from fuzzvm.cli.image_story import story_of_case
    from fuzzvm.images.code import ImageCode
    from fuzzvm.report.compiled_story import title, to_data

    assert isinstance(code, ImageCode)
    story, schedule = story_of_case(case, code)
    if story.failure is None:
        raise CorpusError(file, _NO_PROOF)
    told = to_data(story, case.scenario, title(code.image, case.memory))
    verify = f"fuzzvm verify --image DIR -s {_scenario(case)} --memory {case.memory} --all-errors"
    return image_finding(case, told, context_switches(schedule), verify, store.to_text(case))


def _scenario(case: TestCase) -> str:
    return case.scenario.name if _ships(case.scenario) else "SCENARIO.toml"


def _reproduce(case: TestCase) -> str:
    """Return the command that finds the run again, or that searches where the scenario is of the user's own."""
    scheme = f"--release {case.mitigation}" if case.mitigation in registry.releases() else f"-m {word(case.mitigation)}"
    without = "".join(f" --without {point}" for point in case.without)
    return f"fuzzvm verify {scheme} -s {_scenario(case)} --memory {case.memory}{without}"


def _ships(scenario: Scenario) -> bool:
    try:
        return shipped.get(scenario.name) == scenario
    except ScenarioError:
        return False


def _printed(raw: bytes, file: Path) -> str:
    """Return the mail of what verify or check has printed. Raises CorpusError where it is anything else."""
    try:
        data = json.loads(raw)
        if data.get("check") == CHECK_FORMAT:
            return check_mail(data)
        runs = data["runs"]
        if runs and all({key: run[key] for key in SAID} for run in runs):
            return proof(runs)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise CorpusError(file, "neither a test case nor the output of `fuzzvm verify --json` or `fuzzvm check --json`")
