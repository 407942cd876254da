"""--executor: what `fuzzvm fuzz` and `fuzzvm verify` share of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fuzzvm.cli.common import F, progress_console

if TYPE_CHECKING:
    from fuzzvm.explore.cluster.connection import Cluster

SCHEME = "dask://"
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")


def _address(context: click.Context, option: click.Parameter, given: str | None) -> str | None:
    """Return HOST:PORT. Raises BadParameter."""
    if given is None:
        return None
    address = given.removeprefix(SCHEME)
    if not given.startswith(SCHEME) or not _ADDRESS.fullmatch(address) or int(address.rpartition(":")[2]) > 65535:
        raise click.BadParameter(f"{given!r} is not dask://HOST:PORT")
    return address


def executor_option(command: F) -> F:
    """Add --executor; the command gets HOST:PORT, or None."""
    decorate: Any = click.option(
        "--executor",
        metavar="dask://HOST:PORT",
        callback=_address,
        help="Run on the workers of a scheduler of dask.distributed. Default: in processes of this machine.",
    )
    decorated: F = decorate(command)
    return decorated


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to a cluster for the time of the block; says on a terminal that it waits. Raises ClusterError."""
    # imported here: most commands need no cluster
    from fuzzvm.explore.cluster.connection import connect

    def waiting() -> None:
        progress_console().print(f"waiting for workers at {address}", highlight=False, markup=False)

    with connect(address, on_waiting=waiting) as cluster:
        yield cluster
