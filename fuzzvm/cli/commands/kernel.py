"""`fuzzvm kernel build|replay|stress|compare`."""

from __future__ import annotations

import statistics
from pathlib import Path

import click

from fuzzvm.cli.code import given_code, image_option
from fuzzvm.cli.common import ended_like_ctrl_c, json_option, print_json, progress_console
from fuzzvm.cli.output import plain, say, say_text
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.files.folder import check_new
from fuzzvm.kbuild.arch import PAGE_SHIFTS
from fuzzvm.realkernel import build as builds
from fuzzvm.realkernel import bundle as bundles
from fuzzvm.realkernel import compare as comparing
from fuzzvm.realkernel import fix, tools
from fuzzvm.realkernel import replay as replaying
from fuzzvm.realkernel import stress as stressing
from fuzzvm.realkernel.arch import ARCHES
from fuzzvm.realkernel.outcome import Outcome, Result
from fuzzvm.report.ktap import Result as KtapResult
from fuzzvm.report.ktap import ktap
from fuzzvm.report.story import tell
from fuzzvm.report.text import report_text
from fuzzvm.scenario.target import Code

_kernel_option = click.option(
    "--kernel",
    "kernel_folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="OUT",
    help="The folder that `fuzzvm kernel build` made.",
)


@click.group()
@click.pass_context
def kernel(ctx: click.Context) -> None:
    """Replay schedules on a real kernel under QEMU, with KASAN as the judge.

    \b
    fuzzvm kernel packages
    fuzzvm kernel build --tree linux --arch x86_64 --without-fix promotion-lock -o out
    fuzzvm kernel replay corpus/regressions/none-use-after-free-read-4f5a29210ff8.toml --kernel out
    fuzzvm kernel stress --kernel out --seconds 120
    fuzzvm kernel compare --kernel out
    """
    ctx.with_resource(ended_like_ctrl_c())


@kernel.command()
@click.option("--arch", multiple=True, type=click.Choice(list(ARCHES)), help="Architecture; repeatable. Default: all.")
@json_option
def packages(arch: tuple[str, ...], as_json: bool) -> int:
    """Name the Debian packages that building and driving kernels takes, and which of them are missing here.

    Nothing is installed. Exit status 2 if one is missing.

    \b
    fuzzvm kernel packages --arch arm64
    """
    needed = tools.packages(arch or tuple(ARCHES))
    missing = [package for package, there in needed.items() if not there]
    if as_json:
        print_json({"needed": list(needed), "missing": missing})
    else:
        say(f"needed: {' '.join(needed)}")
    if missing:
        say(f"fuzzvm: packages are missing: apt-get install {' '.join(missing)}", err=True)
    return 2 if missing else 0


@kernel.command()
@click.option(
    "--tree",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR|ARCHIVE",
    help="Kernel source: a clean tree, or an archive such as Debian's linux-source-6.12.tar.xz. It is not written to.",
)
@click.option("--arch", required=True, type=click.Choice(list(ARCHES)), help="Architecture.")
@click.option(
    "--page-size",
    default="4K",
    show_default=True,
    type=click.Choice(list(PAGE_SHIFTS)),
    help="Page size; x86_64 has 4K only.",
)
@click.option(
    "--levels", type=int, help="Levels of page tables. Default: 4 on x86_64, on arm64 3, 4 and 2 with 4K, 16K and 64K."
)
@click.option(
    "--without-fix",
    "without",
    multiple=True,
    metavar="NAME",
    help=f"Take a lock out of a copy of the source; repeatable: {', '.join(fix.STEPS)}. The first takes arm64's choice "
    "between huge vmalloc and CONFIG_PTDUMP_DEBUGFS out too.",
)
@click.option("--revert-fix", is_flag=True, help=f"The same as --without-fix {fix.PROMOTION}.")
@click.option(
    "--patch",
    "patches",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Apply a patch, a mail or a mailbox of patches to a copy of the source first; repeatable.",
)
@click.option("--config", "fragment", type=click.Path(path_type=Path), metavar="FILE", help="Further options.")
@click.option(
    "--jobs", "-j", type=click.IntRange(1), envvar="FUZZVM_KERNEL_JOBS", help="Processes at once. Default: the CPUs."
)
@click.option(
    "--out", "-o", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to build in."
)
@json_option
def build(
    tree: Path,
    arch: str,
    page_size: str,
    levels: int | None,
    without: tuple[str, ...],
    revert_fix: bool,
    patches: tuple[Path, ...],
    fragment: Path | None,
    jobs: int | None,
    out: Path,
    as_json: bool,
) -> int:
    """Configure and build a kernel, and the program and module that its guest runs.

    Nothing is installed; missing Debian packages are named. What was built before with the same source archive and
    options is left as it is; with others, or from a tree, only what differs is compiled.

    \b
    fuzzvm kernel build --tree /usr/src/linux-source-7.3.tar.xz --arch arm64 --without-fix promotion-lock -o out
    """
    named = (*((fix.PROMOTION,) if revert_fix else ()), *without)
    steps = tuple(dict.fromkeys(named))
    options = builds.Options(tree, arch, page_size, levels or 0, steps, patches, fragment, jobs or 0)
    with progress_console().status(plain(f"building; the log is {out / 'build.log'}")):
        built = builds.build(options, out)
    if as_json:
        print_json(built.to_data())
    else:
        say(
            f"{out}: Linux {built.release} for {built.arch}, {built.page_size} pages, {built.levels} levels"
            f"{built.changes}; built in {built.seconds:g} s"
        )
        if built.left_out:
            say(f"options that this tree does not take, and that do not matter: {', '.join(built.left_out)}")
    return 0


@kernel.command()
@click.argument("file", type=click.Path(path_type=Path))
@_kernel_option
@click.option("--mitigation", "-m", "mitigation_name", metavar="FILE.py:CLASS", help="Needed for one of your own.")
@image_option
@click.option("--times", default=1, show_default=True, type=click.IntRange(1), help="Boot and replay so many times.")
@click.option(
    "--seconds", default=120.0, show_default=True, type=click.FloatRange(1), help="Longest time for one replay."
)
@click.option(
    "--expect",
    default=Result.REPRODUCED.value,
    show_default=True,
    type=click.Choice([result.value for result in Result]),
    help="The ending that exit status 0 stands for.",
)
@click.option(
    "--save",
    "bundle",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write what a maintainer needs into a new folder: configuration, guest in C, console, schedule, story, KTAP.",
)
@json_option
@click.option("--ktap", "as_ktap", is_flag=True, help="Print KTAP, the form of the kernel's own tests, on stdout.")
def replay(
    file: Path,
    kernel_folder: Path,
    mitigation_name: str | None,
    folder: Path | None,
    times: int,
    seconds: float,
    expect: str,
    bundle: Path | None,
    as_json: bool,
    as_ktap: bool,
) -> int:
    """Walk a corpus entry's schedule on a real kernel: one CPU runs at a time, stopped by watchpoints on its tables.

    Ends with `reproduced` and KASAN's report beside the model's; `diverged` at a step, and what the kernel did instead;
    or `not reachable`, and the lock that was not to be had. Exit status 0 if all end as `--expect` says, else 1.

    \b
    fuzzvm kernel replay corpus/regressions/none-use-after-free-read-4f5a29210ff8.toml --kernel out --times 10
    fuzzvm kernel replay FILE --kernel out --times 10 --save finding
    fuzzvm kernel replay FILE --image DIR --kernel out
    """
    if as_json and as_ktap:
        raise click.UsageError("--json and --ktap are both for standard output")
    if bundle is not None:
        check_new(bundle)
    case = read(file)
    code = given_code(case, mitigation_name, folder)
    built = builds.load(kernel_folder)
    plan = replaying.plan_of(case, built, code)
    outcomes: list[Outcome] = []
    with progress_console().status("booting, and walking the schedule"):
        for _ in range(times):
            outcomes.append(replaying.replay(plan, built, seconds))
            if not as_json and not as_ktap and times > 1:
                say(_line(outcomes[-1]))
    text = not as_json and not as_ktap
    model = _story(case, code) if text or bundle is not None else ""
    wanted = Result(expect)
    results = [_result(number, outcome, wanted) for number, outcome in enumerate(outcomes, start=1)]
    if bundle is not None:
        texts = {"story.txt": model, "results.ktap": ktap(file.name, results)}
        bundles.save(bundle, file, case.image, built, _shown(outcomes, wanted), times, texts)
    reproduced = sum(outcome.result is Result.REPRODUCED for outcome in outcomes)
    if as_json:
        print_json(
            {
                "file": str(file),
                "kernel": built.to_data(),
                "replays": len(outcomes),
                "reproduced": reproduced,
                "results": [outcome.to_data() for outcome in outcomes],
            }
        )
    elif as_ktap:
        say_text(ktap(file.name, results))
    else:
        _print_outcome(_shown(outcomes, wanted), model, "model" if isinstance(code, type) else "image")
        if times > 1:
            say("", f"{reproduced} of {times} reproduced")
    return 0 if all(outcome.result is wanted for outcome in outcomes) else 1


def _shown(outcomes: list[Outcome], wanted: Result) -> Outcome:
    """Return the first replay that did not end as is wanted, else the last one."""
    return next((outcome for outcome in outcomes if outcome.result is not wanted), outcomes[-1])


def _result(number: int, outcome: Outcome, wanted: Result) -> KtapResult:
    """Return a replay as a test: it passes where it ends as is wanted."""
    locks = [f"lock: {lock}" for lock in outcome.locks]
    return KtapResult(
        f"replay {number}", outcome.result is wanted, said=(_line(outcome), *locks, *outcome.backtrace, *outcome.report)
    )


def _line(outcome: Outcome) -> str:
    step = f" at step {outcome.step}" if outcome.step else ""
    return f"{outcome.result.value}{step}: {outcome.message} ({outcome.seconds:.1f} s from power-on)"


def _story(case: TestCase, code: Code) -> str:
    if isinstance(code, type):
        return report_text(tell(case, code))
    # imported here: ELF, DWARF and disassembly may not be installed
    from fuzzvm.cli.image_story import image_text

    return image_text(case, code)


def _print_outcome(outcome: Outcome, model: str, told: str) -> None:
    say(_line(outcome))
    say(f"{outcome.matched} steps seen on the kernel, {outcome.passed_over} of the {told} passed over: no counterpart")
    for lock in outcome.locks:
        say(f"lock: {lock}")
    for title, lines in (("The kernel was at", outcome.backtrace), ("The kernel's KASAN", outcome.report)):
        if lines:
            say("", f"{title}:", *(f"  {line}".rstrip() for line in lines))
    say("", f"The {told}:", *(f"  {line}".rstrip() for line in model.splitlines()))


@kernel.command()
@_kernel_option
@click.option("--seconds", default=120.0, show_default=True, type=click.FloatRange(1), help="Longest time for one run.")
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1), help="Boot and stress so many times.")
@json_option
def stress(kernel_folder: Path, seconds: float, runs: int, as_json: bool) -> int:
    """Promote on one CPU, dump on the other, and wait for KASAN: the baseline that `replay` is to be compared with.

    Exit status 1 if a run reported, 0 if none did.

    \b
    fuzzvm kernel stress --kernel out --seconds 120 --runs 5
    """
    built = builds.load(kernel_folder)
    outcomes = []
    with progress_console().status("booting, and stressing"):
        for _ in range(runs):
            outcomes.append(stressing.stress(built, seconds))
            if not as_json:
                last = outcomes[-1]
                headline = last.report[0].partition("BUG: ")[2] if last.report else ""
                say(f"no report in {seconds:g} s" if last.seconds is None else f"{last.seconds:.1f} s: {headline}")
    times = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    median = round(statistics.median(times), 2) if times else None
    if as_json:
        print_json(
            {
                "kernel": built.to_data(),
                "seconds": seconds,
                "runs": runs,
                "reported": len(times),
                "median_seconds_of_reports": median,
                "results": [outcome.to_data() for outcome in outcomes],
            }
        )
    else:
        say(f"{len(times)} of {runs} runs reported" + (f", after {median:g} s in the median" if times else ""))
    return 1 if times else 0


@kernel.command()
@_kernel_option
@click.option("--sequences", default=20, show_default=True, type=click.IntRange(1, 50), help="Sequences of calls.")
@click.option("--seed", default=0, show_default=True, help="Seed that they are drawn by.")
@json_option
def compare(kernel_folder: Path, sequences: int, seed: int, as_json: bool) -> int:
    """Compare the kernel's own kernel_page_tables with the model's, after the same calls, drawn by Hypothesis.

    Levels, sizes and attributes of every range. Where they differ the model is wrong; exit status 1 then.

    \b
    fuzzvm kernel compare --kernel out --sequences 20
    """
    built = builds.load(kernel_folder)
    with progress_console().status("booting, and making the calls"):
        compared = comparing.compare(built, sequences, seed)
    different = [comparison for comparison in compared if comparison.differences]
    if as_json:
        print_json(
            {
                "kernel": built.to_data(),
                "seed": seed,
                "sequences": len(compared),
                "rows": sum(comparison.rows for comparison in compared),
                "different": len(different),
                "results": [comparison.to_data() for comparison in compared],
            }
        )
    else:
        for comparison in different:
            say(*map(str, comparison.calls), *(f"  {text}" for text in comparison.differences))
        rows = sum(comparison.rows for comparison in compared)
        say(f"{len(compared)} sequences, {rows} rows, {len(different)} different")
    return 1 if different else 0
