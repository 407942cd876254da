"""`fuzzvm check`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fuzzvm.cli.common import ended_like_ctrl_c, json_option, print_json, progress_console, scenarios
from fuzzvm.cli.image_options import FILE, cc_option, config_option, geometry_options, jobs_option
from fuzzvm.cli.output import print_table, say, say_text
from fuzzvm.cli.verdicts import how
from fuzzvm.files.shell import word
from fuzzvm.files.writing import check_file, write
from fuzzvm.kbuild import source as sources
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.kbuild.patches import MAX_BYTES
from fuzzvm.report.check_ktap import check_ktap
from fuzzvm.report.check_sarif import check_sarif
from fuzzvm.report.check_words import kernel_in_words, look_in_words, verdict_in_words
from fuzzvm.report.html.check_page import check_page

SECONDS = 600.0
OUT = click.Path(path_type=Path, dir_okay=False)
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
@click.option("--ktap", "as_ktap", is_flag=True, help="Print KTAP, the form of the kernel's own tests, on stdout.")
@click.option("--sarif", type=OUT, metavar="FILE", help="Write SARIF 2.1.0 as well.")
@click.option("--html", type=OUT, metavar="FILE", help="Write a page as well.")
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
    as_ktap: bool,
    sarif: Path | None,
    html: Path | None,
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
        from fuzzvm.check.data import answer_to_data
        from fuzzvm.check.series import between, commit, from_files, unpacked
        from fuzzvm.compiled.build import Options
    except ModuleNotFoundError as error:
        raise KbuildError("compiled code needs pyelftools and capstone: pip install 'fuzzvm[compiled]'") from error

    if as_json and as_ktap:
        raise click.UsageError("--json and --ktap are both for standard output")
    for path in (sarif, html):
        if path is not None:
            check_file(path)
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
        data = answer_to_data(answer, tree, _command())
    for path, write_form in ((sarif, check_sarif), (html, check_page)):
        if path is not None:
            write(path, write_form(data))
    if as_json:
        print_json(data)
    elif as_ktap:
        say_text(check_ktap(data))
    else:
        _print(data)
    return int(data["status"])


def _command() -> str:
    """Return the command that finds an answer again, without what says where it goes to."""
    given = click.get_current_context().params
    names = {"patches": "patch", "scenario_names": "scenario", "fragment": "config", "page_size": "page-size"}
    parts = ["fuzzvm", "check"]
    for key in (
        "tree",
        "patches",
        "base",
        "head",
        "scenario_names",
        "fragment",
        "cc",
        "page_size",
        "levels",
        "seconds",
    ):
        value = given[key]
        if value is None or (key, value) in (("cc", "gcc"), ("seconds", SECONDS)):
            continue
        for one in value if isinstance(value, tuple) else (value,):
            parts += [f"--{names.get(key, key)}", word(f"{one:g}" if isinstance(one, float) else str(one))]
    return " ".join(parts)


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


def _print(data: Mapping[str, Any]) -> None:
    for line in _lines(data):
        say_text(line)
    pairs = data["pairs"]
    if pairs:
        say("")
        said = [[verdict_in_words(pair[when]) for when in ("before", "after")] for pair in pairs]
        rows = [(pair["scenario"], pair["memory"], *two, pair["answer"]) for pair, two in zip(pairs, said, strict=True)]
        print_table(("scenario", "memory", "before", "after", ""), rows)
    for pair in pairs:
        for when in ("before", "after"):
            run = pair[when]
            if run is None or run["story"] is None:
                continue
            say(
                "",
                f"{when}, {pair['scenario']}, {pair['memory']}: {run['context_switches']} context switches, "
                f"{run['steps']} steps, {how(minimal=run['complete'])}",
            )
            say_text(run["story"]["text"])
    say("")
    say(f"answer: {data['answer']}" + (f" ({data['why']})" if data["why"] else ""))


def _lines(data: Mapping[str, Any]) -> Iterator[str]:
    for name in data["series"]:
        yield f"patch: {name}"
    for one in data["modelled_functions"]:
        yield f"changes {one['function']} ({one['file']}), which the model has as {one['model']}"
    if data["base"] is not None:
        yield f"base: {kernel_in_words(data['base'])}; image {data['base']['digest'][:12]}"
    if data["head"] is not None:
        yield f"patched: image {data['head']['digest'][:12]}"
    for one in data["functions"]:
        yield look_in_words(one)
    if data["data"]:
        yield f"changes data: {', '.join(data['data'])}"
    if data["not_looked_at"]:
        yield f"not looked at: {', '.join(data['not_looked_at'])}"
    for name, why in data["left_out"].items():
        yield f"left out: {name}: {why}"
