"""`fuzzvm verify --image`: scenarios on the compiled functions of a kernel image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuzzvm.cli.code import runnable_scenarios
from fuzzvm.cli.common import print_json, progress_console, shell_path
from fuzzvm.cli.output import print_table, say, say_text
from fuzzvm.cli.verdicts import how, in_words, say_shortfalls
from fuzzvm.compiled.errors import ConversionError
from fuzzvm.compiled.image import Image, load
from fuzzvm.corpus import store
from fuzzvm.corpus.command import image_command
from fuzzvm.images.code import ImageCode
from fuzzvm.machine.schedule import context_switches
from fuzzvm.report.compiled_story import render, story_of, title
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.boundary_files import Stated, verify_stated
from fuzzvm.verify.boundary_files import load as load_boundary
from fuzzvm.verify.images import ImageRun, cells
from fuzzvm.verify.matrix import Bounds
from fuzzvm.verify.verdict_data import failure_to_data, search_to_data


def verify_on_image(
    folder: Path,
    scenarios: Sequence[Scenario],
    memory: str | None,
    bounds: Bounds,
    save: Path | None,
    boundary: Path | None,
    *,
    chosen: bool,
    as_json: bool,
) -> int:
    """Verify scenarios on an image and print what came of it; return the exit status.

    `chosen` says that the user has named the scenarios: then one that the image cannot run is an error, else it is left
    out, and said to be. The schedule of each bug is saved in the folder `save`. `boundary` is a file with boundary
    functions of the user's. Raises ImageError, ProgramError, ScenarioError, CorpusError.
    """
    image = load(folder)
    stated = None if boundary is None else load_boundary(boundary, image)
    can, cannot = runnable_scenarios(image, scenarios, by_name=chosen)
    runs: list[ImageRun] = []
    saved: dict[int, Path | ConversionError] = {}
    """By the run."""
    interrupted = False
    todo = list(cells(can, memory))
    try:
        with progress_console().status("") as status:
            for scenario, name in todo:
                status.update(f"{scenario.name}, {name} ({len(runs) + 1} of {len(todo)})")
                runs.append(verify_stated(image, scenario, name, bounds, stated))
                if save is not None and runs[-1].verdict.schedule is not None:
                    # at once: what may come hours later must not take a schedule with it
                    saved[id(runs[-1])] = _save(image, runs[-1], save)
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        print_json(
            {
                "image": image.manifest.digest,
                "kernel": image.manifest.kernel,
                "boundary": None if stated is None else _stated_to_json(stated),
                "runs": [_to_json(run, saved.get(id(run))) for run in runs],
                "left_out": {scenario.name: why for scenario, why in cannot},
                "interrupted": interrupted,
            }
        )
    else:
        _print(image, folder, runs, cannot, saved)
        if interrupted:
            say(f"interrupted: {len(runs)} of {len(todo)} runs done", err=True)
    if interrupted:
        return 130
    return 0 if all(run.verdict.verdict == "safe" and run.verdict.complete for run in runs) else 1


def _save(image: Image, run: ImageRun, folder: Path) -> Path | ConversionError:
    """Return the file that the schedule of a bug is saved in, or why it cannot be kept."""
    assert run.verdict.schedule is not None
    origin = f"found by fuzzvm verify, {how(minimal=run.verdict.complete)}"
    try:
        case = ImageCode(image).case(run.task, run.scenario, run.verdict.schedule, run.verdict.failure, origin)
    except ConversionError as error:
        return error
    return store.save(case, folder)[0]


def _stated_to_json(stated: Stated) -> dict[str, Any]:
    return {"file": str(stated.path), "sha256": stated.sha256, "functions": sorted(stated.functions)}


def _print(
    image: Image,
    folder: Path,
    runs: Sequence[ImageRun],
    cannot: Sequence[tuple[Scenario, str]],
    saved: Mapping[int, Path | ConversionError],
) -> None:
    say(title(image))
    print_table(
        ("scenario", "memory", "verdict", "states", "seconds"),
        [
            (
                run.scenario.name,
                run.memory,
                in_words(run.verdict),
                str(run.verdict.states),
                f"{run.verdict.seconds:.3f}",
            )
            for run in runs
        ],
    )
    for run in runs:
        verdict = run.verdict
        where = f"{run.scenario.name}, {run.memory}"
        if verdict.failure is not None and verdict.schedule is not None:
            switches = context_switches(verdict.schedule)
            steps = len(verdict.schedule)
            say("", f"{where}: {switches} context switches, {steps} steps, {how(minimal=verdict.complete)}")
            say_text(render(story_of(run.task, verdict.schedule), run.scenario, title(image, run.memory)))
            kept = saved.get(id(run))
            if isinstance(kept, Path):
                say(f"saved: {image_command('explain', kept, folder)}")
            elif kept is not None:
                say(f"not saved: {kept}")
        say_shortfalls(where, verdict)
    if cannot:
        names = ", ".join(scenario.name for scenario, _ in cannot)
        say("", f"left out: {names} (fuzzvm verify --image {shell_path(folder)} -s NAME says why)")


def _to_json(run: ImageRun, saved: Path | ConversionError | None) -> dict[str, Any]:
    verdict = run.verdict
    schedule = verdict.schedule
    story = None if schedule is None else story_of(run.task, schedule)
    return {
        "scenario": run.scenario.name,
        "memory": run.memory,
        "verdict": verdict.verdict,
        **failure_to_data(verdict),
        "message": verdict.failure.message if verdict.failure else None,
        "stack": [str(frame) for frame in story.frames] if story else [],
        **search_to_data(verdict),
        "met": sorted(verdict.met),
        "missing": list(verdict.missing),
        "saved": str(saved) if isinstance(saved, Path) else None,
        "not_saved": str(saved) if isinstance(saved, ConversionError) else None,
    }
