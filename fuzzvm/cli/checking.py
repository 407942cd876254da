"""A check as commands ask for one: their common options, and the way from them to a check's data."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from fuzzvm.cli.common import progress_console, scenarios
from fuzzvm.cli.image_options import cc_option, config_option, geometry_options, jobs_option
from fuzzvm.files.shell import word
from fuzzvm.kbuild import source as sources
from fuzzvm.kbuild.errors import KbuildError

F = TypeVar("F", bound=Callable[..., Any])

SECONDS = 600.0
SCENARIOS = {"arm64": ("pmd-promotion", "check-wx"), "x86_64": ("x86-pmd-promotion",)}


@dataclass(frozen=True)
class Given:
    """How a check is done, as `check_options` has it."""

    arches: tuple[str, ...]
    scenario_names: tuple[str, ...]
    fragment: Path | None
    cc: str
    page_size: str | None
    levels: int | None
    seconds: float
    jobs: int | None
    out: Path | None


@dataclass(frozen=True)
class Asked:
    """What is checked: patches on a tree or on a commit of a git tree, or the difference of two commits.

    `standard_input` is the file among `patches` that holds what was read from there.
    """

    tree: Path
    patches: tuple[Path, ...] = ()
    base: str | None = None
    head: str | None = None
    standard_input: Path | None = None


def check_options(command: F) -> F:
    """Add the options of how a check is done; the command gets them as `given`."""

    @functools.wraps(command)
    def packed(*args: Any, **options: Any) -> Any:
        given = Given(**{field.name: options.pop(field.name) for field in fields(Given)})
        return command(*args, given=given, **options)

    defaults = "; ".join(f"{' and '.join(names)} on {name}" for name, names in SCENARIOS.items())
    scenario = click.option(
        "--scenario",
        "-s",
        "scenario_names",
        multiple=True,
        metavar="NAME|FILE.toml",
        help=f"Scenario to verify before and after; repeatable. Default: {defaults}.",
    )
    arch = click.option(
        "--arch",
        "arches",
        multiple=True,
        type=click.Choice(list(SCENARIOS)),
        help="Architecture to compile for; repeatable. Default: those of the scenarios; else x86_64 for a series that "
        "touches arch/x86, and arm64 for one that touches anything else.",
    )
    seconds = click.option(
        "--seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=SECONDS,
        show_default=True,
        help="Time for all searches together; building comes on top.",
    )
    out = click.option(
        "--out",
        "-o",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder to build in; a second check on the same base builds one image. Default: in ~/.cache/fuzzvm/check.",
    )
    return arch(scenario(config_option(cc_option(geometry_options(seconds(jobs_option(out(packed))))))))  # type: ignore[return-value]


def checked(asked: Asked, given: Given, *, ours: bool = False) -> dict[str, Any] | None:
    """Return the data of a check; with `ours`, None for a series that touches no file that may matter.

    Raises KbuildError, ImageError, ProgramError, ScenarioError where nothing can be checked.
    """
    # imported here: ELF, DWARF and disassembly are needed for nothing else
    try:
        from fuzzvm.check.check import architectures_of, check, may_matter
        from fuzzvm.check.data import answer_to_data
        from fuzzvm.check.series import between, commit, from_files, unpacked
        from fuzzvm.check.together import together
        from fuzzvm.compiled.build import Options
    except ModuleNotFoundError as error:
        raise KbuildError("compiled code needs pyelftools and capstone: pip install 'fuzzvm[compiled]'") from error

    tree, base = asked.tree, asked.base
    folder = given.out or _cache(tree)
    chosen = scenarios(given.scenario_names) if given.scenario_names else ()
    try:
        with progress_console().status("reading the series") as status:
            if base is not None:
                base = commit(tree, base)
                folder /= base
            elif not sources.is_tree(tree):
                raise KbuildError(f"{tree} is no kernel tree")
            if asked.patches or base is None:
                series = from_files(asked.patches, asked.standard_input)
            else:
                head = commit(tree, asked.head or "HEAD")
                series = between(tree, base, head, folder / f"{head}.patch")
            if ours and not may_matter(series):
                return None
            arches = given.arches or tuple(dict.fromkeys(one.arch for one in chosen)) or architectures_of(series)
            source = tree if base is None else unpacked(tree, base, folder, status.update)
            answers = []
            for arch in arches:
                options = Options(
                    arch=arch,
                    fragment=given.fragment,
                    cc=given.cc,
                    page_size=given.page_size,
                    levels=given.levels,
                    jobs=given.jobs or 0,
                )
                # one of another architecture than is asked for is left out, and said to be
                mine = [
                    one for one in chosen or scenarios(SCENARIOS[arch]) if one.arch not in arches or one.arch == arch
                ]
                seconds = given.seconds / len(arches)
                answers.append(check(source, series, folder / arch, mine, options, seconds, status.update))
            return answer_to_data(together(answers), tree, base, _command(asked, given))
    except OSError as error:
        raise KbuildError(f"{error.filename or folder}: {error.strerror}") from error


@contextmanager
def spooled(content: bytes) -> Iterator[Path]:
    """Yield a file with what was read from standard input, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="fuzzvm-check-") as folder:
        file = Path(folder) / "patches"
        file.write_bytes(content)
        yield file


def _command(asked: Asked, given: Given) -> str:
    """Return the command that finds an answer again."""
    values: list[tuple[str, Sequence[object]]] = [
        ("tree", [asked.tree]),
        ("patch", ["-" if patch == asked.standard_input else patch for patch in asked.patches]),
        ("base", [asked.base]),
        ("head", [asked.head]),
        ("arch", given.arches),
        ("scenario", given.scenario_names),
        ("config", [given.fragment]),
        ("cc", [given.cc] if given.cc != "gcc" else []),
        ("page-size", [given.page_size]),
        ("levels", [given.levels]),
        ("seconds", [f"{given.seconds:g}"] if given.seconds != SECONDS else []),
    ]
    parts = [f"--{name} {word(str(one))}" for name, every in values for one in every if one is not None]
    return " ".join(["fuzzvm check", *parts])


def _cache(tree: Path) -> Path:
    """Return the folder that a tree's images are kept in where none is given."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in str(tree.resolve()))
    return root / "fuzzvm" / "check" / name.strip("-")[-100:]
