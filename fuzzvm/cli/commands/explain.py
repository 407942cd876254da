"""`fuzzvm explain FILE`."""

from __future__ import annotations

from pathlib import Path

import click

from fuzzvm.cli.code import given_code, image_option
from fuzzvm.cli.common import json_option, print_json
from fuzzvm.cli.output import say, say_text
from fuzzvm.corpus.command import command
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import read
from fuzzvm.files.writing import write
from fuzzvm.machine.errors import ScheduleError
from fuzzvm.report.story import tell
from fuzzvm.report.text import render


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--mitigation", "-m", "mitigation_name", metavar="FILE.py:CLASS", help="Needed for one of your own.")
@image_option
@click.option(
    "--html",
    "html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT",
    help="Write a page that shows the run step by step, complete in itself, instead of text.",
)
@json_option
def explain(file: Path, mitigation_name: str | None, folder: Path | None, html: Path | None, as_json: bool) -> int:
    """Tell the story of a run: a report in the manner of KASAN, then what each CPU did, step by step.

    The steps that the error is made of are marked with an asterisk. Of a kernel image, the story has source lines, and
    leaves out accesses that no other CPU can tell.
    """
    case = read(file)
    code = given_code(case, mitigation_name, folder)
    if not isinstance(code, type):
        assert folder is not None
        # imported here: ELF, DWARF and disassembly are needed for nothing else
        from fuzzvm.cli.image_story import explain_on_image

        return explain_on_image(case, code, file, folder, html=html, as_json=as_json)
    replay_command = command("replay", file, mitigation_name or case.mitigation, given=mitigation_name is not None)
    try:
        if html is not None:
            # imported here: templates are not needed for text
            from fuzzvm.report.html.story_page import story_page

            write(html, story_page(case, code, replay_command))
            if not as_json:
                say(f"written: {html}")
                return 0
        story = tell(case, code)
    except ScheduleError as error:
        raise CorpusError(file, f"no longer replays: {error}") from error
    if not as_json:
        say_text(render(story, replay_command))
        return 0
    print_json(
        {
            "verdict": "safe" if story.failure is None else "bug",
            "bug": None if story.failure is None else story.failure.error,
            "function": None if story.failure is None else story.failure.function,
            "message": None if story.failure is None else story.failure.message,
            "context_switches": story.switches,
            "digest": story.digest,
            "counters": story.counters.to_data(),
            "areas": [{"start": start, "end": end} | reach.to_data() for start, end, reach in story.areas],
            "events": [{"what": e.what, "step": e.step, "cpu": e.cpu, "stack": list(e.stack)} for e in story.events],
            "steps": [
                {"step": s.number, "cpu": s.cpu, "stack": list(s.stack), "text": s.text, "guilty": s.guilty}
                for s in story.steps
            ],
        }
    )
    return 0
