"""`fuzzvm check`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fuzzvm.check.answers import FIXED, STATUS
from fuzzvm.cli.common import ended_like_ctrl_c, json_option, print_json, progress_console, scenarios
from fuzzvm.cli.image_options import FILE, cc_option, config_option, geometry_options, jobs_option
from fuzzvm.cli.output import print_table, say, say_text
from fuzzvm.cli.verdicts import failure_to_data, how, in_words, search_to_data
from fuzzvm.kbuild import source as sources
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.kbuild.patches import MAX_BYTES
from fuzzvm.machine.schedule import context_switches

if TYPE_CHECKING:
    from fuzzvm.check.check import Answer
    from fuzzvm.check.looked_at import Look
    from fuzzvm.explore.images import ImageRun

SECONDS = 600.0
STDIN = Path("-")
SCENARIOS = ("pmd-promotion", "check-wx")


@click.command()
@click.option(
    "--tree", required=True, type=click.Path(path_type=Path, file_okay=False), help="Kernel source, unpacked."
)
@click.option(
    "--patch",
    "patches",
    multiple=True,
    type=FILE,
    metavar="FILE|-",
    help="Patch, mail, or mailbox of a series; - is standard input. Repeatable, in order.",
)
@click.option("--base", metavar="REV", help="Commit of the git tree that is the base; what is checked out is not read.")
@click.option("--head", metavar="REV", help="Commit that is compared with --base. Default: HEAD, without --patch.")
@click.option(
    "--scenario",
    "-s",
    "scenario_names",
    multiple=True,
    metavar="NAME|FILE.toml",
    help=f"Scenario to verify before and after; repeatable. Default: {' and '.join(SCENARIOS)}.",
)
@config_option
@cc_option
@geometry_options
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=SECONDS,
    show_default=True,
    help="Time for all searches together; building comes on top.",
)
@jobs_option
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to build in; a second check on the same base builds one image. Default: in ~/.cache/fuzzvm/check.",
)
@json_option
def check(
    tree: Path,
    patches: tuple[Path, ...],
    base: str | None,
    head: str | None,
    scenario_names: tuple[str, ...],
    fragment: Path | None,
    cc: str,
    page_size: str | None,
    levels: int | None,
    seconds: float,
    jobs: int | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Say what a patch series does to page-table code.

    The answer is one of no change, fixed, broken, still broken, undecided, not looked at, cannot be tested. The tree is
    compiled with the series and without (arm64), and both are verified, under sc and arm64 memory. What is broken comes
    with its shortest schedule. Exit status 0 for no change and fixed, 1 for broken and still broken, 125 for undecided,
    for code that no image is compiled from, and for a series that does not apply, does not compile or needs what is not
    supported: as `git bisect run` takes them.

    \b
    fuzzvm check --tree linux --patch 0001-mm.patch
    fuzzvm check --tree linux --patch series.mbox -s pmd-promotion -s two-promoters --seconds 1800
    b4 am -o - MESSAGE-ID | fuzzvm check --tree linux --patch -
    fuzzvm check --tree linux --base v7.3 --head topic
    """
    # imported here: ELF, DWARF and disassembly are needed for nothing else
    try:
        from fuzzvm.check.check import check as run_check
        from fuzzvm.check.series import between, commit, from_files, unpacked
        from fuzzvm.compiled.build import Options
    except ModuleNotFoundError as error:
        raise KbuildError("compiled code needs pyelftools and capstone: pip install 'fuzzvm[compiled]'") from error

    if head is not None and (patches or base is None):
        raise click.UsageError("--head goes with --base, and without --patch")
    if not patches and base is None:
        raise click.UsageError("give --patch, or --base for a git tree")
    folder = out or _cache(tree)
    options = Options(fragment=fragment, cc=cc, page_size=page_size, levels=levels, jobs=jobs or 0)
    chosen = scenarios(scenario_names or SCENARIOS)
    with ended_like_ctrl_c(), _spooled(patches) as files, progress_console().status("reading the series") as status:
        given = tree
        if base is not None:
            first = commit(tree, base)
            given, folder = unpacked(tree, first, folder, status.update), folder / first
        elif not sources.is_tree(tree):
            raise KbuildError(f"{tree} is no kernel tree")
        if patches:
            series = from_files(files, files[patches.index(STDIN)] if STDIN in patches else None)
        else:
            series = between(tree, first, commit(tree, head or "HEAD"), folder / "series.patch")
        answer = run_check(given, series, folder, chosen, options, seconds, status.update)
    if as_json:
        print_json(_to_data(answer, tree))
    else:
        for line in _lines(answer):
            say_text(line)
        _print_pairs(answer)
        say(f"answer: {answer.answer}" + (f" ({answer.why})" if answer.why else ""))
    return STATUS[answer.answer]


@contextmanager
def _spooled(patches: tuple[Path, ...]) -> Iterator[list[Path]]:
    """Yield files with the patches: what standard input has is one for as long as it is needed."""
    if STDIN not in patches:
        yield list(patches)
        return
    if patches.count(STDIN) > 1:
        raise click.UsageError("--patch -: standard input can be read once")
    with tempfile.TemporaryDirectory(prefix="fuzzvm-check-") as folder:
        file = Path(folder) / "patches"
        file.write_bytes(sys.stdin.buffer.read(MAX_BYTES + 1))
        yield [file if patch == STDIN else patch for patch in patches]


def _cache(tree: Path) -> Path:
    """Return the folder that a tree's images are kept in where none is given."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in str(tree.resolve()))
    return root / "fuzzvm" / "check" / name.strip("-")[-100:]


def _lines(answer: Answer) -> Iterator[str]:
    for name in answer.series:
        yield f"patch: {name}"
    if answer.touched is not None:
        for function in answer.touched.functions:
            yield f"changes {function.name} ({function.file}), which the model has as {function.model}"
    if answer.base is not None:
        base = answer.base
        yield (
            f"base: Linux {base.kernel}, {base.arch}, {base.page_size} pages, {base.levels} levels, {base.compiler}; "
            f"image {base.digest[:12]}"
        )
    if answer.head is not None:
        yield f"patched: image {answer.head.digest[:12]}"
    for one in answer.functions:
        yield f"{one.state}: {one.name} ({one.file}){_detail(one)}"
    if answer.data:
        yield f"changes data: {', '.join(answer.data)}"
    if answer.unread:
        yield f"not looked at: {', '.join(answer.unread)}"
    for name, why in answer.left_out:
        yield f"left out: {name}: {why}"


def _detail(one: Look) -> str:
    if one.why:
        return f": {one.why}"
    lines = f"{one.lines_ran} of {one.lines} changed lines, " if one.lines else ""
    return f": {lines}{'; '.join(one.pairs)}" if one.pairs else ""


def _print_pairs(answer: Answer) -> None:
    # imported here: see above
    from fuzzvm.report.compiled_story import render, story_of

    if answer.pairs:
        say("")
        print_table(
            ("scenario", "memory", "before", "after", ""),
            [
                (pair.scenario.name, pair.memory, _said(pair.before), _said(pair.after), pair.answer)
                for pair in answer.pairs
            ],
        )
    for pair in answer.pairs:
        for when, run in (("before", pair.before), ("after", pair.after)):
            if run is None or run.verdict.schedule is None or (when == "before" and pair.answer != FIXED):
                continue
            verdict, schedule = run.verdict, run.verdict.schedule
            say(
                "",
                f"{when}, {pair.scenario.name}, {pair.memory}: {context_switches(schedule)} context switches, "
                f"{len(schedule)} steps, {how(minimal=verdict.complete)}",
            )
            say_text(render(story_of(run.task, schedule), pair.scenario, f"{when} the series; memory {pair.memory}"))
    say("")


def _said(run: ImageRun | None) -> str:
    return "no time" if run is None else in_words(run.verdict)


def _to_data(answer: Answer, tree: Path) -> dict[str, Any]:
    what = answer.touched
    return {
        "answer": answer.answer,
        "why": answer.why or None,
        "tree": str(tree),
        "series": list(answer.series),
        "changed": [] if what is None else list(what.changed),
        "comments_only": [] if what is None else list(what.same),
        "modelled_functions": []
        if what is None
        else [{"function": one.name, "file": one.file, "model": one.model} for one in what.functions],
        "functions": [asdict(one) for one in answer.functions],
        "data": list(answer.data),
        "not_looked_at": list(answer.unread),
        "left_out": dict(answer.left_out),
        "base": None if answer.base is None else answer.base.to_data(),
        "head": None if answer.head is None else answer.head.to_data(),
        "pairs": [
            {
                "scenario": pair.scenario.name,
                "memory": pair.memory,
                "answer": pair.answer,
                "before": _verdict(pair.before),
                "after": _verdict(pair.after),
            }
            for pair in answer.pairs
        ],
    }


def _verdict(run: ImageRun | None) -> dict[str, Any] | None:
    if run is None:
        return None
    verdict = run.verdict
    data = {"verdict": verdict.verdict, **failure_to_data(verdict), **search_to_data(verdict)}
    return data | {"missing": list(verdict.missing)}
