"""A finding of a kernel image as plain text for a mailing list, in 72 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuzzvm.corpus.format import TestCase
from fuzzvm.report.check_mail import FINDING, command_lines, function_of
from fuzzvm.report.mail import compiled_steps, fit, section, wrapped, wrapped_lines


def image_finding(case: TestCase, story: Mapping[str, Any], switches: int, verify: str, case_text: str) -> str:
    """Return the mail about a run of compiled code that goes wrong.

    `story` is plain data as `compiled_story.to_data` returns it, `verify` the command that finds the run again in the
    image, which is called DIR, `case_text` the test case as its file has it.
    """
    image = case.image
    assert image is not None
    name = function_of(story["stack"], story["function"] or "")
    where = f" in {name}()" if name else ""
    summary = (
        f"fuzzvm finds a schedule of {story['cpus']} CPUs in which the compiled code of Linux {image.kernel} ends in "
        f"{story['error']}{where}. It has {len(story['steps'])} steps and {switches} context switches."
    )
    patched = [f"patch: {patch}" for patch in image.patches]
    commands = [*command_lines(image.build), *command_lines(verify), "fuzzvm replay race.toml --image DIR"]
    parts = [
        f"Subject: [BUG] {story['error']}{where} ({image.arch}, Linux {image.kernel})",
        wrapped(summary),
        section("What was run", [line for one in (*story["setting"], *patched) for line in fit(one)]),
        section("Report", [line for one in story["report"] for line in fit(one)]),
        section("The interleaving", ["", *compiled_steps(story)]),
        section("Reproduce", ["", *(f"    {line}" for line in commands)]),
        section("Limits", wrapped_lines(FINDING)),
        # as it is: a file that is wrapped is another file
        section("race.toml", ["", *case_text.splitlines()]),
    ]
    return "\n\n".join(parts) + "\n"
