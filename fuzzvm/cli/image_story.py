"""`fuzzvm explain --image`: the story of a run of compiled code."""

from __future__ import annotations

from pathlib import Path

from fuzzvm.cli.common import print_json
from fuzzvm.cli.output import say, say_text
from fuzzvm.corpus.command import image_command
from fuzzvm.corpus.format import TestCase
from fuzzvm.files.writing import write
from fuzzvm.images.code import ImageCode
from fuzzvm.machine.schedule import Schedule, context_switches
from fuzzvm.report.compiled_story import CompiledStory, render, story_of, title, to_data
from fuzzvm.scenario.target import Code


def story_of_case(case: TestCase, code: Code) -> tuple[CompiledStory, Schedule]:
    """Return the story of a test case of an image, and its schedule without steps that nobody can tell.

    Raises ConversionError for a run that has no counterpart in which accesses that nobody can tell are no steps.
    """
    assert isinstance(code, ImageCode)
    task, schedule = code.with_fewer_steps(case)
    return story_of(task, schedule), schedule


def explain_on_image(
    case: TestCase, code: Code, file: Path, folder: Path, *, html: Path | None = None, as_json: bool
) -> int:
    """Print the story of a test case of an image, or write it as a page; return the exit status.

    Raises as `story_of_case` does.
    """
    assert isinstance(code, ImageCode)
    story, schedule = story_of_case(case, code)
    replay_command = image_command("replay", file, folder)
    if html is not None:
        # imported here: templates are not needed for text
        from fuzzvm.report.html.compiled_page import compiled_page

        told = to_data(story, case.scenario, title(code.image))
        write(html, compiled_page(case, told, schedule, title(code.image), replay_command))
        if not as_json:
            say(f"written: {html}")
            return 0
    if not as_json:
        say_text(render(story, case.scenario, title(code.image, case.memory)))
        say(f"every access to shared memory counted: {len(case.schedule)} steps")
        say(f"replay: {replay_command}")
        return 0
    failure = story.failure
    print_json(
        {
            "verdict": "safe" if failure is None else "bug",
            "bug": None if failure is None else failure.error,
            "function": None if failure is None else failure.function,
            "message": None if failure is None else failure.message,
            "stack": [str(frame) for frame in story.frames],
            "context_switches": context_switches(schedule),
            "accesses": len(case.schedule),
            "steps": [
                {
                    "step": one.step.number,
                    "cpu": one.step.cpu,
                    "stack": [str(frame) for frame in one.frames],
                    "text": one.text,
                }
                for one in story.steps
            ],
        }
    )
    return 0


def image_text(case: TestCase, code: Code) -> str:
    """Return the story of a test case of an image as text. Raises as `story_of_case` does."""
    assert isinstance(code, ImageCode)
    return render(story_of_case(case, code)[0], case.scenario, title(code.image, case.memory))
