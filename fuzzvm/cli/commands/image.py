"""`fuzzvm image build|show|compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fuzzvm.cli.common import (
    ended_like_ctrl_c,
    json_option,
    known_release,
    print_json,
    progress_console,
)
from fuzzvm.cli.image_options import FILE, cc_option, config_option, geometry_options, jobs_option
from fuzzvm.cli.output import print_table, say
from fuzzvm.compiled import arch as architectures
from fuzzvm.compiled.closure import Closure, close
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image, load
from fuzzvm.compiled.isa.instruction import UnsupportedInstructionError
from fuzzvm.compiled.records import Symbol
from fuzzvm.compiled.run.arch import running

ENTRIES = (
    *("vmap_page_range", "__vmap_pages_range_noflush", "vunmap_range", "ptdump_walk", "ptdump_check_wx"),
    *("ptdump_walk_pgd_level_debugfs", "ptdump_walk_pgd_level_checkwx"),
)


@click.group()
@click.pass_context
def image(ctx: click.Context) -> None:
    """Compile the page-table code of a kernel, and show what there is to verify.

    \b
    fuzzvm image build --tree linux -o out
    fuzzvm image show out
    """
    ctx.with_resource(ended_like_ctrl_c())


@image.command()
@click.option(
    "--tree",
    type=FILE,
    metavar="DIR|ARCHIVE",
    help="Kernel source: a tree, or an archive such as Debian's linux-source-6.12.tar.xz. It is not written to.",
)
@click.option(
    "--objects",
    "objects_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="In place of --tree: a folder in which you have built a kernel. Its objects are linked as they are.",
)
@click.option(
    "--vmlinux",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="In place of --tree: a kernel with debug information, in the folder that it was built in.",
)
@click.option("--patch", "patches", multiple=True, type=FILE, metavar="FILE", help="Patch to apply; repeatable.")
@config_option
@cc_option
@click.option(
    "--arch", default="arm64", show_default=True, type=click.Choice(architectures.names()), help="Architecture."
)
@geometry_options
@click.option(
    "--atomics",
    type=click.Choice(["lse", "ll-sc"]),
    help="What arm64 CPUs have: atomic instructions (the default), or load and store exclusive only.",
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME",
    help="Another CPU feature that alternatives are applied for, as arch/arm64/tools/cpucaps has it; repeatable.",
)
@click.option(
    "--object", "objects", multiple=True, metavar="PATH.o", help="A further object, such as mm/foo.o; repeatable."
)
@jobs_option
@click.option(
    "--out", "-o", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to build in."
)
@json_option
def build(out: Path, as_json: bool, **given: Any) -> int:
    """Configure a kernel, compile the objects that matter to page tables, and link them into an image.

    Nothing is installed; missing Debian packages are named. The source is not written to. A build that was interrupted
    goes on when it is started again, and one of the same source and options is left as it is.

    \b
    fuzzvm image build --tree /usr/src/linux-source-6.12.tar.xz -o ~/.cache/fuzzvm/6.12
    fuzzvm image build --tree linux --patch 0001-mm.patch --cc clang -o patched
    """
    # imported here: `image show` needs no ELF reader
    try:
        from fuzzvm.compiled import build as builds
    except ModuleNotFoundError as error:
        raise ImageError("building images needs pyelftools: pip install 'fuzzvm[compiled]'") from error

    given |= {"jobs": given["jobs"] or 0, "atomics": given["atomics"] or ""}
    options = builds.Options(**given)
    with progress_console().status(f"building; the log is {out / 'build.log'}") as status:
        manifest = builds.build(options, out, lambda text: status.update(f"{text}; the log is {out / 'build.log'}"))
    if as_json:
        print_json(manifest.to_data())
    else:
        patched = (
            f", {len(manifest.patches)} patches"
            if len(manifest.patches) > 1
            else ", patched"
            if manifest.patches
            else ""
        )
        say(
            f"{out}: Linux {manifest.kernel}{patched} for {manifest.arch}, {manifest.page_size} pages, "
            f"{manifest.levels} levels, {manifest.atomics}, {manifest.compiler}; "
            f"{len(manifest.objects)} objects, built in {manifest.seconds:g} s"
        )
        if manifest.left_out:
            say(f"not in this kernel: {', '.join(manifest.left_out)}")
        say(f"digest {manifest.digest}")
    return 0


@image.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option(
    "--entry",
    "entries",
    multiple=True,
    metavar="FUNCTION",
    help="Function to begin at; repeatable. Default: those of vmalloc and ptdump.",
)
@click.option("--boundary", multiple=True, metavar="FUNCTION", help="Function that is not to be entered; repeatable.")
@json_option
def show(folder: Path, entries: tuple[str, ...], boundary: tuple[str, ...], as_json: bool) -> int:
    """Show what functions of an image reach: code, boundary functions, static-key sites, and what is not supported.

    A boundary function is one that the image does not have. Exit status 1 if something is not supported.

    \b
    fuzzvm image show out
    fuzzvm image show out --entry vmalloc_to_page --entry set_memory_rox
    """
    loaded = load(folder)
    closure = close(loaded, _entries(loaded, entries), boundary)
    unsupported = list(_unsupported(closure))
    if as_json:
        print_json(_data(closure, unsupported))
    else:
        _print(closure, unsupported)
    return 1 if unsupported else 0


@image.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option(
    "--release",
    required=True,
    callback=known_release,
    metavar="NAME",
    help="The release of the model to compare with, as fuzzvm releases names it.",
)
@click.option(
    "--scenario",
    "-s",
    "scenario_names",
    multiple=True,
    metavar="NAME",
    help="Scenario or file; repeatable. Default: all that can be.",
)
@click.option("--rows", is_flag=True, help="Print the operations of each call side by side.")
@json_option
def compare(folder: Path, release: str, scenario_names: tuple[str, ...], rows: bool, as_json: bool) -> int:
    """Compare compiled code with the hand-written model, operation by operation.

    Each scenario that both can run is run on both with its CPUs one after the other. Each difference is harmless for a
    stated reason, or drift. Exit status: 0 no drift, 1 drift, 2 it cannot be run.

    \b
    fuzzvm image compare out --release linux-7.3
    fuzzvm image compare out --release linux-7.3 -s pmd-promotion --rows
    """
    # imported here: the other commands need no model
    from fuzzvm.cli.image_compare import compare_image

    return compare_image(folder, release, scenario_names, rows=rows, as_json=as_json)


def _entries(loaded: Image, names: tuple[str, ...]) -> list[Symbol]:
    """Return the functions to begin at: those that are named, else those of the usual ones that the image has."""
    if names:
        return [loaded.function(name) for name in names]
    found = []
    for name in ENTRIES:
        try:
            found.append(loaded.function(name))
        except ImageError:
            continue
    if not found:
        raise ImageError(f"{loaded.folder} has none of {', '.join(ENTRIES)}: name functions by --entry")
    return found


def _unsupported(closure: Closure) -> Iterator[str]:
    """Yield what in a closure cannot be run."""
    loaded = closure.image
    for alternative in closure.alternatives:
        if alternative.address in loaded.unwritten:
            writer = loaded.describe(alternative.replacement)
            yield f"{loaded.describe(alternative.address)}: code that {writer} writes at boot"
    fetch = running(loaded.manifest.arch).fetch(loaded, loaded.name_at)
    for lines in closure.lines.values():
        for line in lines:
            if line.mnemonic == "(bad)":
                yield f"{loaded.describe(line.address)}: no known instruction"
                continue
            try:
                fetch(line.address)
            except UnsupportedInstructionError as error:
                yield f"{loaded.describe(line.address)}: {error.text}"
            except ImageError:
                # code that is written at boot, which has been said
                continue


def _data(closure: Closure, unsupported: list[str]) -> dict[str, Any]:
    loaded = closure.image
    return {
        "image": loaded.manifest.to_data(),
        "entries": [entry.name for entry in closure.entries],
        "functions": [
            {"name": function.name, "unit": function.unit, "address": function.address, "instructions": len(lines)}
            for function, lines in closure.lines.items()
        ],
        "instructions": closure.mnemonics.total(),
        "mnemonics": dict(closure.mnemonics.most_common()),
        "indirect_calls": closure.indirect_calls,
        "boundary": [
            {"name": symbol.name, "defined": symbol.defined, "callers": [caller.name for caller in callers]}
            for symbol, callers in closure.boundary.items()
        ],
        "weak": [function.name for function in closure.weak],
        "jump_sites": [
            {
                "address": site.code,
                "where": loaded.describe(site.code),
                "target": site.target,
                "key": loaded.name_at(site.key),
                "branch": site.branch,
            }
            for site in closure.jump_sites
        ],
        "alternatives": [
            {
                "address": found.address,
                "where": loaded.describe(found.address),
                "feature": found.feature,
                "applied": found.applied,
            }
            for found in closure.alternatives
        ],
        "bugs": [
            {"address": bug.address, "file": bug.file, "line": bug.line, "warning": bug.warning} for bug in closure.bugs
        ],
        "unsupported": unsupported,
    }


def _print(closure: Closure, unsupported: list[str]) -> None:
    loaded = closure.image
    manifest = loaded.manifest
    say(
        f"Linux {manifest.kernel} for {manifest.arch}, {manifest.page_size} pages, {manifest.levels} levels, "
        f"{manifest.atomics}; {manifest.compiler}",
        "",
    )
    rows = [(function.name, function.unit, str(len(lines))) for function, lines in closure.lines.items()]
    print_table(("function", "file", "instructions"), rows)
    say("", f"{len(rows)} functions, {closure.mnemonics.total()} instructions, {closure.indirect_calls} indirect calls")
    counted = ", ".join(f"{name} {count}" for name, count in closure.mnemonics.most_common())
    say("", f"{len(closure.mnemonics)} mnemonics: {counted}")
    say("", f"{len(closure.boundary)} boundary functions: {', '.join(s.name for s in closure.boundary) or 'none'}")
    if closure.weak:
        names = ", ".join(function.name for function in closure.weak)
        say("", f"{len(closure.weak)} weak functions, which another object may replace: {names}")
    features: Counter[str] = Counter(found.feature for found in closure.alternatives)
    applied: Counter[str] = Counter(found.feature for found in closure.alternatives if found.applied)
    listed = ", ".join(
        f"{name} {count} ({'applied' if applied[name] else 'not applied'})" for name, count in features.items()
    )
    say("", f"{features.total()} alternatives{f': {listed}' if listed else ''}")
    warnings = sum(bug.warning for bug in closure.bugs)
    say(f"{warnings} WARN, {len(closure.bugs) - warnings} BUG")
    say(f"{len(closure.jump_sites)} static-key sites")
    for site in closure.jump_sites:
        say(f"  {loaded.describe(site.code)}: {loaded.name_at(site.key)}")
    say("", f"not supported: {len(unsupported) or 'nothing'}")
    for text in unsupported:
        say(f"  {text}")
