"""--mitigation and --image of commands that take test cases: the code that these may run, resolved once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from fuzzvm.cli.common import F
from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import code_of
from fuzzvm.images.given import image_code
from fuzzvm.mitigations import registry
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.target import Code

if TYPE_CHECKING:
    from fuzzvm.compiled.image import Image

FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


def image_option(command: F) -> F:
    """Add --image."""
    text = "The kernel image that the test case is of, as `fuzzvm image build` made it."
    return click.option("--image", "folder", type=FOLDER, metavar="DIR", help=text)(command)


def images_option(command: F) -> F:
    """Add --image, any number of times."""
    text = "Run the cases of this kernel image; may be given more than once. Without, they are not run."
    return click.option("--image", "folders", multiple=True, type=FOLDER, metavar="DIR", help=text)(command)


def refuse_with_image(context: click.Context, allowed: Collection[str]) -> None:
    """Raise UsageError for an option of the command line that is not among those for images."""
    refuse_with("--image", context, allowed)


def refuse_with(given: str, context: click.Context, allowed: Collection[str]) -> None:
    """Raise UsageError for an option of the command line that is not among those that go with the given one."""
    for option in context.command.params:
        name = option.name or ""
        if name not in allowed and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{given} and {option.opts[0]} exclude each other")


def runnable_scenarios(
    image: Image, given: Sequence[Scenario], *, by_name: bool
) -> tuple[list[Scenario], list[tuple[Scenario, str]]]:
    """Return the scenarios that an image can run, and the others with the reason of each.

    Raises UsageError where there are others and the user has named them.
    """
    from fuzzvm.verify.images import runnable

    can, cannot = runnable(image, list(given))
    if by_name and cannot:
        scenario, why = cannot[0]
        raise click.UsageError(f"--image: scenario {scenario.name}: {why}")
    return can, cannot


def given_code(case: TestCase, mitigation: str | None, folder: Path | None) -> Code:
    """Return the code that a test case runs, by the options of its command.

    Raises UsageError where both are given, ImageError, and as `code_of` does.
    """
    if mitigation is not None and folder is not None:
        raise click.UsageError("--mitigation and --image exclude each other")
    given: Code | None = None
    if folder is not None:
        given = image_code(folder)
    elif mitigation is not None:
        given = registry.get(mitigation)
    return code_of(case, given)
