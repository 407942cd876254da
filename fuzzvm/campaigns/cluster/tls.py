"""The certificates by which a command and a cluster know each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzvm.campaigns.cluster.errors import ClusterError
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_bytes

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the authority that has signed the certificates of a cluster, and one of those with its key.

    dask asks both sides for a certificate of that authority and compares no names: whoever has one may run code.
    """

    ca_file: Path
    certificate: Path
    key: Path

    def security(self, distributed: Any) -> Any:
        """Return what dask is to use them by. Raises ClusterError for files that cannot be used."""
        try:
            for file in (self.ca_file, self.certificate, self.key):
                text = read_bytes(file, MAX_BYTES)
                # Python would ask for its password, on the terminal and for ever
                if b"ENCRYPTED" in text:
                    raise ClusterError(f"{file}: the key is encrypted, which dask has no use for")
        except FileError as error:
            raise ClusterError(str(error)) from error
        security = distributed.Security(
            require_encryption=True,
            tls_ca_file=str(self.ca_file),
            tls_client_cert=str(self.certificate),
            tls_client_key=str(self.key),
        )
        return _checked(security, f"{self.ca_file}, {self.certificate} and {self.key}")


def configured(distributed: Any) -> Any:
    """Return what dask is configured with, which must be certificates. Raises ClusterError."""
    security = distributed.Security(require_encryption=True)
    if not (security.tls_ca_file and security.tls_client_cert):
        raise ClusterError(
            "tls:// needs certificates: --tls-ca-file, --tls-cert and --tls-key, or distributed.comm.tls in dask's "
            "configuration"
        )
    return _checked(security, "the certificates of dask's configuration")


def _checked(security: Any, what: str) -> Any:
    try:
        security.get_connection_args("client")
    except (OSError, ValueError) as error:
        raise ClusterError(f"{what} cannot be used for TLS: {error}") from error
    return security
