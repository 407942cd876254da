"""`fuzzvm verify --image`: scenarios on the compiled functions of a kernel image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuzzvm.cli.code import runnable_scenarios
from fuzzvm.cli.common import print_json, progress_console, shell_path
from fuzzvm.cli.output import print_table, say, say_text
from fuzzvm.cli.verdicts import how, in_words, say_load_buffering, say_shortfalls
from fuzzvm.compiled.errors import ConversionError
from fuzzvm.compiled.image import Image, load
from fuzzvm.corpus import store
from fuzzvm.corpus.command import image_command
from fuzzvm.exhaustive.verdict import FailingRun
from fuzzvm.images.code import ImageCode
from fuzzvm.machine.schedule import context_switches
from fuzzvm.report.compiled_story import render, story_of, title
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.boundary_files import Stated, verify_stated
from fuzzvm.verify.boundary_files import load as load_boundary
from fuzzvm.verify.images import ImageRun, cells
from fuzzvm.verify.matrix import Bounds
from fuzzvm.verify.verdict_data import error_to_data, failure_to_data, search_to_data


def verify_on_image(
    folder: Path,
    scenarios: Sequence[Scenario],
    memory: str | None,
    bounds: Bounds,
    save: Path | None,
    boundary: Path | None,
    *,
    chosen: bool,
    tlb: bool,
    as_json: bool,
) -> int:
    """Verify scenarios on an image and print what came of it; return the exit status.

    `chosen` says that the user has named the scenarios: then one that the image cannot run is an error, else it is left
    out, and said to be. `tlb` says that TLBs are asked for in all. The schedule of each bug is saved in the folder
    `save`. `boundary` is a file with boundary functions of the user's. Raises ImageError, ProgramError, ScenarioError,
    CorpusError.
    """
    image = load(folder)
    stated = None if boundary is None else load_boundary(boundary, image)
    can, cannot = runnable_scenarios(image, scenarios, by_name=chosen, tlb=tlb)
    runs: list[ImageRun] = []
    saved: dict[int, list[Path | ConversionError]] = {}
    """By the run, for each of its errors."""
    interrupted = False
    todo = list(cells(can, memory))
    try:
        with progress_console().status("") as status:
            for scenario, name in todo:
                status.update(f"{scenario.name}, {name} ({len(runs) + 1} of {len(todo)})")
                runs.append(verify_stated(image, scenario, name, bounds, stated))
                if save is not None:
                    # at once: what may come hours later must not take a schedule with it
                    saved[id(runs[-1])] = [_save(image, runs[-1], error, save) for error in _errors(runs[-1])]
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        print_json(
            {
                "image": image.manifest.digest,
                "kernel": image.manifest.kernel,
                "boundary": None if stated is None else _stated_to_json(stated),
                "runs": [_to_json(run, saved.get(id(run), [])) for run in runs],
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


def _errors(run: ImageRun) -> tuple[FailingRun, ...]:
    """Return the errors of a run, each with its schedule: all that are known, the shortest schedule first."""
    verdict = run.verdict
    if verdict.failure is None or verdict.schedule is None:
        return ()
    return verdict.errors or (FailingRun(verdict.failure, verdict.schedule, verdict.complete),)


def _save(image: Image, run: ImageRun, error: FailingRun, folder: Path) -> Path | ConversionError:
    """Return the file that the schedule of an error is saved in, or why it cannot be kept."""
    origin = f"found by fuzzvm verify, {how(minimal=error.minimal)}"
    try:
        case = ImageCode(image).case(run.task, run.scenario, error.schedule, error.failure, origin)
    except ConversionError as failed:
        return failed
    return store.save(case, folder)[0]


def _stated_to_json(stated: Stated) -> dict[str, Any]:
    return {"file": str(stated.path), "sha256": stated.sha256, "functions": sorted(stated.functions)}


def _print(
    image: Image,
    folder: Path,
    runs: Sequence[ImageRun],
    cannot: Sequence[tuple[Scenario, str]],
    saved: Mapping[int, Sequence[Path | ConversionError]],
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
        for number, error in enumerate(_errors(run)):
            switches, steps = context_switches(error.schedule), len(error.schedule)
            say("", f"{where}: {switches} context switches, {steps} steps, {how(minimal=error.minimal)}")
            say_text(render(story_of(run.task, error.schedule), run.scenario, title(image, run.memory)))
            kept = saved[id(run)][number] if id(run) in saved else None
            if isinstance(kept, Path):
                say(f"saved: {image_command('explain', kept, folder)}")
            elif kept is not None:
                say(f"not saved: {kept}")
        if verdict.errors_stopped:
            say("", f"{where}: there may be other errors: {verdict.errors_stopped}")
        say_shortfalls(where, verdict)
    say_load_buffering([(f"{run.scenario.name}, {run.memory}", run.verdict) for run in runs])
    if cannot:
        names = ", ".join(scenario.name for scenario, _ in cannot)
        say("", f"left out: {names} (fuzzvm verify --image {shell_path(folder)} -s NAME says why)")


def _to_json(run: ImageRun, saved: Sequence[Path | ConversionError]) -> dict[str, Any]:
    verdict = run.verdict
    schedule = verdict.schedule
    story = None if schedule is None else story_of(run.task, schedule)
    kept = [one for error, one in zip(_errors(run), saved, strict=False) if error.schedule == schedule]
    return {
        "scenario": run.scenario.name,
        "memory": run.memory,
        "tlb": run.scenario.tlb,
        "verdict": verdict.verdict,
        **failure_to_data(verdict),
        "message": verdict.failure.message if verdict.failure else None,
        "stack": [str(frame) for frame in story.frames] if story else [],
        **search_to_data(verdict),
        "met": sorted(verdict.met),
        "missing": list(verdict.missing),
        **_saved_to_json(kept[0] if kept else None),
        "errors": [
            error_to_data(error) | _saved_to_json(saved[number] if saved else None)
            for number, error in enumerate(verdict.errors)
        ],
        "errors_bound": verdict.errors_stopped or None,
    }


def _saved_to_json(saved: Path | ConversionError | None) -> dict[str, Any]:
    return {
        "saved": str(saved) if isinstance(saved, Path) else None,
        "not_saved": str(saved) if isinstance(saved, ConversionError) else None,
    }
