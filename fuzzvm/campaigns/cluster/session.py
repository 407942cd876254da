"""What a command tells every worker that makes calls for it."""

from __future__ import annotations

import functools
import hashlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fuzzvm
from fuzzvm.campaigns.settings import digest_of, files_of
from fuzzvm.exhaustive.memory_use import available_memory
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.mitigations.sent_files import SentFile

SHARE = 0.8
"""Part of the memory that is free which searches may take where nobody has said how much: as `fuzzvm verify` alone."""


@dataclass(frozen=True)
class Session:
    """The calls of one command. `made_by` is what a process must be the same in to make them.

    `files` are the files of the user's own mitigations, by the names they are asked for by. `memory` is the bytes that
    calls may use on each machine together, None for what is free there; `threads` is how many threads of workers there
    are on each machine, by its address. Without `memory_bounded` calls may use what they like.
    """

    id: str
    made_by: Mapping[str, str]
    files: Mapping[str, SentFile]
    mitigations: tuple[str, ...]
    memory: int | None
    memory_bounded: bool
    threads: Mapping[str, int]

    @classmethod
    def begin(
        cls, mitigations: Sequence[str], threads: Mapping[str, int], *, memory: int | None, memory_bounded: bool
    ) -> Session:
        """Return a session that runs these mitigations. Raises MitigationError."""
        own = _own(mitigations)
        made_by = here() | {f"mitigation {mitigation}": digest_of(mitigation) for mitigation in own}
        return cls(uuid.uuid4().hex, made_by, _files(own), own, memory, memory_bounded, threads)

    def differs(self) -> str:
        """Return what is otherwise in this process, in a few words; '' where nothing. Raises MitigationError.

        The files must have been provided.
        """
        return difference(self.made_by, here() | {f"mitigation {one}": digest_of(one) for one in self.mitigations})

    def memory_of_one(self, host: str, nthreads: int) -> int | None:
        """Return the bytes that one of the calls on a machine may use, by its address and the threads of a worker."""
        total = self.memory
        if total is None and (free := available_memory()) is not None:
            total = int(free * SHARE)
        if total is None or not self.memory_bounded:
            return None
        # a worker that has come later is not counted
        return total // max(1, nthreads, self.threads.get(host, 0))


@functools.cache
def here() -> dict[str, str]:
    """Return what two processes must have in common for a task to give the same in both, by name."""
    return {"Python": f"{sys.version_info.major}.{sys.version_info.minor}", "fuzzvm": _fuzzvm()}


def host_of(address: str) -> str:
    """Return the machine of a worker's address: what stands between `tcp://` and the port."""
    return address.rpartition("://")[2].rpartition(":")[0]


def difference(wanted: Mapping[str, str], got: Mapping[str, str]) -> str:
    """Return the first thing that differs, in a few words; '' where all is the same."""
    for what, value in wanted.items():
        if got.get(what) != value:
            return f"another {what} ({got.get(what)}, here {value})"
    return ""


def _fuzzvm() -> str:
    """Return the version, and a digest of the code: two checkouts may have the same version."""
    root = Path(fuzzvm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")) + sorted(root.rglob("*.toml")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{fuzzvm.__version__}, code {digest.hexdigest()[:12]}"


def _own(mitigations: Sequence[str]) -> tuple[str, ...]:
    """Return those of which a part does not ship with fuzzvm."""
    shipped = registry.shipped()
    return tuple(one for one in mitigations if any(part not in shipped for part in registry.split(one)))


def _files(mitigations: Sequence[str]) -> dict[str, SentFile]:
    return {name: sent_files.current(name) for name in files_of(mitigations)}
