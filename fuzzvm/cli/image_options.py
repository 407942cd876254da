"""The options of a command that compiles images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fuzzvm.compiled.toolchain import CC
from fuzzvm.kbuild.arch import PAGE_SHIFTS

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def _is_cc(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not CC.fullmatch(value):
        raise click.BadParameter("must be gcc or clang, or one of them with a version, such as clang-19")
    return value


def config_option(command: F) -> F:
    """Add --config."""
    text = "Further options, or a whole configuration."
    return click.option("--config", "fragment", type=FILE, metavar="FILE", help=text)(command)


def cc_option(command: F) -> F:
    """Add --cc."""
    return click.option(
        "--cc",
        default="gcc",
        show_default=True,
        callback=_is_cc,
        metavar="gcc|clang",
        help="Compiler; clang-19 for a certain one.",
    )(command)


def geometry_options(command: F) -> F:
    """Add --page-size and --levels."""
    page_size = click.option(
        "--page-size", type=click.Choice(list(PAGE_SHIFTS)), help="Page size. Default: what --config says, else 4K."
    )
    text = "Levels of page tables. Default: 3, 4 and 2 with 4K, 16K and 64K on arm64, 4 on x86_64."
    return page_size(click.option("--levels", type=int, help=text)(command))


def jobs_option(command: F) -> F:
    """Add --jobs."""
    return click.option(
        "--jobs",
        "-j",
        type=click.IntRange(1),
        envvar="FUZZVM_KERNEL_JOBS",
        help="Processes at once. Default: the CPUs.",
    )(command)
