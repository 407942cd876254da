"""The page of a run of compiled code: the report with source lines, and the steps in a column for each CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuzzvm.corpus.format import TestCase
from fuzzvm.machine.schedule import Schedule, format_schedule
from fuzzvm.report.html.escape import render


def compiled_page(case: TestCase, story: Mapping[str, Any], schedule: Schedule, title: str, replay_command: str) -> str:
    """Return the page of a test case of an image.

    `story` is the data of `compiled_story.to_data` and `schedule` its schedule, which counts what other CPUs can
    notice; that of the test case counts every access. `title` says what the image is.
    """
    return render(
        "compiled_page.html.j2",
        story=story,
        case=case,
        schedule=format_schedule(schedule),
        accesses=len(case.schedule),
        title=title,
        replay_command=replay_command,
    )
