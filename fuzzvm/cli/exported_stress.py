"""`fuzzvm export --to stress`: what is told of a finding of the model, or of an image."""

from __future__ import annotations

from pathlib import Path

from fuzzvm.corpus.command import command, image_command
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase
from fuzzvm.export.stress import stress_program
from fuzzvm.export.stress_words import Told
from fuzzvm.kernel.errors import DESCRIPTIONS
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry
from fuzzvm.realkernel.plan import JUDGED
from fuzzvm.report.mail import compiled_steps, steps
from fuzzvm.report.story import tell
from fuzzvm.scenario.target import Code

INSTEAD = "The command below makes a kernel follow the schedule, and says whether it can (QEMU; not every schedule)."
NOTHING_WRONG = "nothing goes wrong in this run: there is nothing to reproduce"


def stress(case: TestCase, code: Code, file: Path) -> dict[str, str]:
    """Return the files of the program for a finding. Raises CorpusError where nothing goes wrong, and ExportError."""
    if case.expect.error is None:
        raise CorpusError(file, NOTHING_WRONG)
    told = _of_model(case, code, file) if isinstance(code, type) else _of_image(case, code, file)
    return stress_program(case, told)


def _of_model(case: TestCase, mitigation: type[Mitigation], file: Path) -> Told:
    story = tell(case, mitigation)
    if story.failure is None:
        raise CorpusError(file, NOTHING_WRONG)
    kind = "release" if case.mitigation in registry.releases() else "scheme"
    without = f" without {', '.join(case.without)}" if case.without else ""
    return Told(
        error=story.failure.error,
        function=story.failure.function,
        headline=story.headline,
        kernel=f"the model of {kind} {case.mitigation}{without}, memory {case.memory}",
        schedule=f"{len(story.steps)} steps and {story.switches} context switches",
        listing=steps(story),
        instead=INSTEAD,
        command=command("kernel replay", "schedule.toml", case.mitigation) + " --kernel OUT",
    )


def _of_image(case: TestCase, code: Code, file: Path) -> Told:
    # imported here: ELF, DWARF and disassembly may not be installed
    from fuzzvm.cli.image_story import story_of_case
    from fuzzvm.images.code import ImageCode
    from fuzzvm.machine.schedule import context_switches
    from fuzzvm.report.compiled_story import title, to_data

    assert isinstance(code, ImageCode)
    story, schedule = story_of_case(case, code)
    if story.failure is None:
        raise CorpusError(file, NOTHING_WRONG)
    judged = story.failure.error in JUDGED
    told = to_data(story, case.scenario, title(code.image))
    return Told(
        error=story.failure.error,
        function=story.failure.function,
        headline=story.failure.message or DESCRIPTIONS.get(story.failure.error, ""),
        kernel=f"compiled code: {title(code.image, case.memory)}",
        schedule=f"{len(story.steps)} steps and {context_switches(schedule)} context switches",
        listing=compiled_steps(told),
        instead=INSTEAD if judged else "The command below tells the schedule with source lines.",
        command=image_command("kernel replay", "schedule.toml", "DIR") + " --kernel OUT"
        if judged
        else image_command("explain", "schedule.toml", "DIR"),
    )
