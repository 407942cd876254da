"""What commands share: how options become objects, how progress and JSON are shown."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fuzzvm.cli.output import say_text
from fuzzvm.files.shell import word
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine import memory as memory_models
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.errors import short
from fuzzvm.scenario import ordering_points, own, shipped
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.supervision.inside import HOOK_SECONDS

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")(
        command
    )


def mitigation_options(command: F) -> F:
    """Add --release and --mitigation, each any number of times: the command gets `mitigation_names` of both."""

    @functools.wraps(command)
    def with_releases(
        *args: Any, release_names: tuple[str, ...], mitigation_names: tuple[str, ...], **options: Any
    ) -> Any:
        return command(*args, mitigation_names=over(release_names, mitigation_names), **options)

    mitigation = click.option(
        "--mitigation",
        "-m",
        "mitigation_names",
        multiple=True,
        metavar="NAME|FILE.py:CLASS",
        help="Mitigation to run under, or several as one: A+B; may be given more than once. Default: all that ship.",
    )
    release = click.option(
        "--release",
        "release_names",
        multiple=True,
        metavar="NAME",
        callback=known_releases,
        help="Linux release to run, as fuzzvm releases names it; with --mitigation, that is tried on the release.",
    )
    return mitigation(release(with_releases))  # type: ignore[return-value]


def over(release_names: Sequence[str], mitigation_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the schemes that releases and mitigations are together: each mitigation on each release."""
    if not release_names or not mitigation_names:
        return (*release_names, *mitigation_names)
    return tuple(f"{release}+{mitigation}" for release in release_names for mitigation in mitigation_names)


def known_releases(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of releases, as options are given them. Raises BadParameter for one that is not modelled."""
    known = registry.releases()
    for name in given:
        if name not in known:
            raise click.BadParameter(f"no release {short(name)!r}; there are {', '.join(known)}")
    return given


def known_release(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    """Return the name of a release, or None. Raises BadParameter as `known_releases` does."""
    known_releases(ctx, param, () if given is None else (given,))
    return given


def scenario_options(command: F) -> F:
    """Add --scenario, any number of times."""
    return click.option(
        "--scenario",
        "-s",
        "scenario_names",
        multiple=True,
        metavar="NAME|FILE.toml",
        help="Scenario to run, or a file with one of your own; may be given more than once. Default: all that ship.",
    )(command)


def memory_option(command: F) -> F:
    """Add --memory."""
    return click.option(
        "--memory",
        type=click.Choice(memory_models.names()),
        help="Memory model. Default: that of the scenario's architecture, sc where it does not exist.",
    )(command)


def tlb_option(command: F) -> F:
    """Add --tlb."""
    return click.option(
        "--tlb",
        is_flag=True,
        help="Follow what TLBs and walk caches may hold, in every scenario and not only in those that ask for it.",
    )(command)


def without_option(command: F) -> F:
    """Add --without, any number of times."""
    return click.option(
        "--without",
        multiple=True,
        type=click.Choice(ordering_points.names()),
        metavar="POINT",
        help="Ordering point to leave out, as fuzzvm necessity names them; may be given more than once.",
    )(command)


def hook_seconds_option(command: F) -> F:
    """Add --hook-seconds."""
    return click.option(
        "--hook-seconds",
        type=click.FloatRange(min=0.1),
        help=f"Time that one call of a mitigation may take. Default: {HOOK_SECONDS:g}.",
    )(command)


def mitigations(names: tuple[str, ...], *, releases: bool = False) -> list[tuple[str, type[Mitigation]]]:
    """Return the mitigations of these names, or all that ship; `releases` adds those. Raises MitigationError."""
    if names:
        return [(name, registry.get(name)) for name in names]
    return [*registry.shipped().items(), *(registry.releases().items() if releases else ())]


def scenarios(names: tuple[str, ...], *, tlb: bool = False) -> tuple[Scenario, ...]:
    """Return the scenarios of these names or files, or all that ship; `tlb` has TLBs followed. Raises ScenarioError."""
    chosen = tuple(own.get(name) for name in names) if names else tuple(shipped.shipped().values())
    called: dict[str, Scenario] = {}
    for scenario in chosen:
        if called.setdefault(scenario.name, scenario) != scenario:
            # tables and pages call scenarios by name: one would stand for the other
            raise ScenarioError(f"two scenarios are called {scenario.name!r}; give one of the files another `name`")
    return tuple(replace(scenario, tlb=True) for scenario in chosen) if tlb else chosen


def print_json(data: object) -> None:
    """Print one JSON object on stdout."""
    say_text(json.dumps(data, indent=2))


def progress_console() -> Console:
    """Return the console for progress: stderr, and silent where that is no terminal."""
    # imported here: most commands show no progress, and a small matrix takes less than a second
    from rich.console import Console

    return Console(stderr=True, quiet=not sys.stderr.isatty())


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: children are killed, and what is temporary goes."""
    if threading.current_thread() is not threading.main_thread():
        # signals are the main thread's
        yield
        return
    # what is ignored, as nohup has SIGHUP, stays so
    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shell_path(path: Path) -> str:
    """Return a path as one word of a shell command."""
    return word(str(path))
