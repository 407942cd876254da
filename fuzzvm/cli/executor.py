"""--executor: what `fuzzvm fuzz` and `fuzzvm verify` share of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fuzzvm.cli.common import F, progress_console

if TYPE_CHECKING:
    from fuzzvm.campaigns.cluster.connection import Cluster
    from fuzzvm.campaigns.cluster.tls import Certificates

SCHEMES = ("dask://", "tls://")
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")
TLS_OPTIONS = ("tls_ca_file", "tls_cert", "tls_key")
"""Names of the options beside --executor."""


@dataclass(frozen=True, slots=True)
class Address:
    """A scheduler. `address` is HOST:PORT, or `tls://HOST:PORT`; `certificates` is None for those of dask."""

    address: str
    certificates: Certificates | None = None


def _address(context: click.Context, option: click.Parameter, given: str | None) -> Address | None:
    """Return the address of a scheduler. Raises BadParameter."""
    files: dict[str, Path] = {name: context.meta[name] for name in TLS_OPTIONS if context.meta.get(name) is not None}
    scheme, separator, address = (given or "").partition("://")
    if given is not None and (
        scheme + separator not in SCHEMES or not _ADDRESS.fullmatch(address) or int(address.rpartition(":")[2]) > 65535
    ):
        raise click.BadParameter(f"{given!r} is not dask://HOST:PORT or tls://HOST:PORT")
    if files and (given is None or scheme != "tls" or len(files) < len(TLS_OPTIONS)):
        raise click.BadParameter("--tls-ca-file, --tls-cert and --tls-key go together, with tls://HOST:PORT")
    if given is None:
        return None
    # imported here, as below: most commands need no cluster
    from fuzzvm.campaigns.cluster.tls import Certificates

    certificates = Certificates(*(files[name] for name in TLS_OPTIONS)) if files else None
    return Address(given if scheme == "tls" else address, certificates)


def _keep(context: click.Context, option: click.Parameter, given: Path | None) -> None:
    context.meta[option.name or ""] = given


def executor_option(command: F) -> F:
    """Add --executor, and the options for its certificates; the command gets an Address, or None."""
    options = {
        "tls_ca_file": "With tls://: the authority that has signed the cluster's certificates (PEM).",
        "tls_cert": "With tls://: the certificate of this command.",
        "tls_key": "With tls://: the key of --tls-cert.",
    }
    decorated: Any = command
    for name, text in reversed(options.items()):
        decorated = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            # known when --executor is looked at, and a part of what the command gets for that
            is_eager=True,
            expose_value=False,
            callback=_keep,
            help=text,
        )(decorated)
    decorated = click.option(
        "--executor",
        metavar="dask://HOST:PORT|tls://HOST:PORT",
        callback=_address,
        help="Run on the workers of a scheduler of dask.distributed, over TLS with tls://. "
        "Default: in processes of this machine.",
    )(decorated)
    returned: F = decorated
    return returned


@contextlib.contextmanager
def connected(executor: Address) -> Iterator[Cluster]:
    """Connect to a cluster for the time of the block; says on a terminal that it waits. Raises ClusterError."""
    from fuzzvm.campaigns.cluster.connection import connect

    def waiting() -> None:
        progress_console().print(f"waiting for workers at {executor.address}", highlight=False, markup=False)

    with connect(executor.address, on_waiting=waiting, certificates=executor.certificates) as cluster:
        yield cluster
