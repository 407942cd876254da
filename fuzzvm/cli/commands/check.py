"""`fuzzvm check`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from fuzzvm.cli.checking import Asked, Given, check_options, checked, spooled
from fuzzvm.cli.common import ended_like_ctrl_c, json_option, print_json
from fuzzvm.cli.image_options import FILE
from fuzzvm.cli.output import print_table, say, say_text
from fuzzvm.cli.verdicts import how
from fuzzvm.files.writing import check_file, write
from fuzzvm.kbuild.patches import MAX_BYTES
from fuzzvm.report.check_ktap import check_ktap
from fuzzvm.report.check_mail import check_mail
from fuzzvm.report.check_sarif import check_sarif
from fuzzvm.report.check_words import kernel_in_words, look_in_words, verdict_in_words
from fuzzvm.report.html.check_page import check_page

OUT = click.Path(path_type=Path, dir_okay=False)
STDIN = Path("-")


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
@check_options
@json_option
@click.option("--ktap", "as_ktap", is_flag=True, help="Print KTAP, the form of the kernel's own tests, on stdout.")
@click.option("--sarif", type=OUT, metavar="FILE", help="Write SARIF 2.1.0 as well.")
@click.option("--html", type=OUT, metavar="FILE", help="Write a page as well.")
@click.option("--mail", type=OUT, metavar="FILE", help="Write a mail in 72 columns as well; nothing is sent.")
def check(
    tree: Path,
    patches: tuple[Path, ...],
    base: str | None,
    head: str | None,
    given: Given,
    as_json: bool,
    as_ktap: bool,
    sarif: Path | None,
    html: Path | None,
    mail: Path | None,
) -> int:
    """Say what a patch series does to page-table code.

    The answer is one of no change, fixed, broken, still broken, undecided, not looked at, cannot be tested. The tree is
    compiled with the series and without, and both are verified, under sc and the architecture's memory model. What is
    broken comes with its shortest schedule. Exit status 0 for no change and fixed, 1 for broken and still broken, 125
    for undecided, for code that no image is compiled from or no schedule runs, and for a series that does not apply,
    does not compile or needs what is not supported: as `git bisect run` takes them.

    \b
    fuzzvm check --tree linux --patch 0001-mm.patch --mail mail.txt
    fuzzvm check --tree linux --patch series.mbox -s pmd-promotion -s two-promoters --seconds 1800
    b4 am -o - MESSAGE-ID | fuzzvm check --tree linux --patch -
    fuzzvm check --tree linux --base v7.3 --head topic
    """
    if as_json and as_ktap:
        raise click.UsageError("--json and --ktap are both for standard output")
    for path in (sarif, html, mail):
        if path is not None:
            check_file(path)
    if head is not None and (patches or base is None):
        raise click.UsageError("--head goes with --base, and without --patch")
    if not patches and base is None:
        raise click.UsageError("give --patch, or --base for a git tree")
    if patches.count(STDIN) > 1:
        raise click.UsageError("--patch -: standard input can be read once")
    with ended_like_ctrl_c(), ExitStack() as stack:
        file = None
        if STDIN in patches:
            file = stack.enter_context(spooled(sys.stdin.buffer.read(MAX_BYTES + 1)))
        files = tuple(file if patch == STDIN and file else patch for patch in patches)
        data = checked(Asked(tree, files, base, head, file), given)
    assert data is not None
    for path, form in ((sarif, check_sarif), (html, check_page), (mail, check_mail)):
        if path is not None:
            write(path, form(data))
    if as_json:
        print_json(data)
    elif as_ktap:
        say_text(check_ktap(data))
    else:
        _print(data)
    return int(data["status"])


def _print(data: Mapping[str, Any]) -> None:
    for line in _lines(data):
        say_text(line)
    pairs = data["pairs"]
    if pairs:
        say("")
        said = [[verdict_in_words(pair[when]) for when in ("before", "after")] for pair in pairs]
        rows = [(pair["scenario"], pair["memory"], *two, pair["answer"]) for pair, two in zip(pairs, said, strict=True)]
        print_table(("scenario", "memory", "before", "after", ""), rows)
    told: dict[tuple[str, str, str], str] = {}
    for pair in pairs:
        for when in ("before", "after"):
            run = pair[when]
            if run is None or run["story"] is None:
                continue
            where = f"{pair['scenario']}, {pair['memory']}"
            first = told.setdefault((when, run["bug"], run["function"]), where)
            like = "" if first == where else f"; {run['bug']} as in {first}"
            say(
                "",
                f"{when}, {where}: {run['context_switches']} context switches, {run['steps']} steps, "
                f"{how(minimal=run['complete'])}{like}",
            )
            # the others are in --json and --html
            if not like:
                say_text(run["story"]["text"])
    say("")
    say(f"answer: {data['answer']}" + (f" ({data['why']})" if data["why"] else ""))


def _lines(data: Mapping[str, Any]) -> Iterator[str]:
    for name in data["series"]:
        yield f"patch: {name}"
    for one in data["modelled_functions"]:
        yield f"changes {one['function']} ({one['file']}), which the model has as {one['model']}"
    for images in data["images"]:
        yield f"base: {kernel_in_words(images['base'])}; image {images['base']['digest'][:12]}"
        if images["head"] is not None:
            yield f"patched: image {images['head']['digest'][:12]}"
    for one in data["functions"]:
        yield look_in_words(one)
    if data["data"]:
        yield f"changes data: {', '.join(data['data'])}"
    if data["flushes"]:
        yield f"changes maintenance of TLBs, which is not followed: {', '.join(data['flushes'])}"
    if data["not_looked_at"]:
        yield f"not looked at: {', '.join(data['not_looked_at'])}"
    for name, why in data["left_out"].items():
        yield f"left out: {name}: {why}"
