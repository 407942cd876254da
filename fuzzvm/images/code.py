"""The code of a kernel image as what test cases run, and runs of it as test cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.every_access import every_access, fewer_steps
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.image_table import ImageTable
from fuzzvm.files.shell import word
from fuzzvm.images.calls import image_task
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.schedule import Schedule
from fuzzvm.scenario.scenario import Scenario


@dataclass(frozen=True)
class ImageCode:
    """An image whose functions make the calls of scenarios."""

    image: Image

    @property
    def digest(self) -> str:
        """The SHA-256 of what is loaded."""
        return self.image.manifest.digest

    @property
    def folder(self) -> Path:
        """The folder that the image is in."""
        return self.image.folder

    def task(self, scenario: Scenario, memory: str) -> CompiledTask:
        """Return the task of a test case. Raises as `image_task` does."""
        return image_task(self.image, scenario, memory, assume=False)

    def task_to_search(self, scenario: Scenario, memory: str, until: float | None = None) -> CompiledTask:
        """Return the task in which accesses that nobody can tell are no steps; `until` is as for `learned`."""
        return image_task(self.image, scenario, memory).learned(until=until)

    def case(
        self, task: CompiledTask, scenario: Scenario, schedule: Schedule, failure: Failure | None, origin: str
    ) -> TestCase:
        """Return a run of a task as a test case. Raises ConversionError where it cannot be kept."""
        expect = Expectation("safe") if failure is None else Expectation("bug", failure.error, failure.function)
        kept = every_access(task, schedule)
        return TestCase(scenario, "", task.memory, kept, expect, origin, image=table_of(self.image))

    def with_fewer_steps(self, case: TestCase) -> tuple[CompiledTask, Schedule]:
        """Return the task to search of a test case, and its run as a schedule of that.

        Raises ConversionError where there is none that ends as the run does, and as `task` does.
        """
        every = self.task(case.scenario, case.memory)
        return fewer_steps(every, case.schedule, self.task_to_search(case.scenario, case.memory))


def table_of(image: Image) -> ImageTable:
    """Return what test cases say of an image."""
    of = image.manifest
    return ImageTable(
        digest=of.digest,
        kernel=of.kernel,
        arch=of.arch,
        page_size=of.page_size,
        levels=of.levels,
        atomics=of.atomics,
        compiler=of.compiler,
        patches=tuple(f"{patch['name']} {patch['sha256']}" for patch in of.patches),
        build=_build_command(image),
    )


def _build_command(image: Image) -> str:
    """Return the command that builds an image again; a configuration of the user's has no name in it."""
    of = image.manifest
    option = {"vmlinux": "--vmlinux", "objects": "--objects"}.get(of.kind, "--tree")
    words = ["fuzzvm", "image", "build", option, word(of.source)]
    for patch in of.patches:
        words += ["--patch", word(patch["name"])]
    for feature in of.features:
        if feature not in image.arch.atomics.get(of.atomics, ()):
            words += ["--feature", feature]
    words += [
        "--arch",
        of.arch,
        "--cc",
        word(of.cc),
        "--page-size",
        of.page_size,
        "--levels",
        str(of.levels),
        "--atomics",
        of.atomics,
    ]
    return " ".join([*words, "-o", "DIR"])
