"""Where `fuzzvm verify` verifies: in processes of this machine or of a cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from fuzzvm.cli.executor import Address, connected
from fuzzvm.exhaustive.limits import limit_process
from fuzzvm.exhaustive.memory_use import available_memory, resident
from fuzzvm.processes.parallel import cores
from fuzzvm.supervision import inside
from fuzzvm.verify.matrix import Bounds, Cell, VerifiedCell, verify_all

LEAST = 64 << 20
"""Bytes that a process should be able to have, half of which it has at once."""

Running = Generator[tuple[int, VerifiedCell], None, None]


@dataclass(frozen=True)
class Where:
    """`jobs` is the number of processes, None for all there are; `max_memory` MiB for all of a machine together.

    `executor` is a cluster's scheduler, None for this machine.
    """

    jobs: int | None
    max_memory: int | None
    executor: Address | None

    def verify(self, cells: Sequence[Cell], bounds: Bounds) -> Running:
        """Return what verifies cells, each in one process. The bounds have none on memory.

        Raises as `verify_all` does, and ClusterError.
        """
        return self._here(cells, bounds) if self.executor is None else self._there(cells, bounds)

    def _here(self, cells: Sequence[Cell], bounds: Bounds) -> Running:
        jobs = min(self.jobs or cores(), len(cells))
        # each has its share in any case, and more while others have less
        total = share = self._memory()
        if total is not None:
            total -= inside.resident_supervisor()
            # with less than a process has when it begins, no run would get anywhere
            left = total - resident()
            jobs = max(1, min(jobs, left // LEAST))
            share = left // jobs
        bounds = replace(bounds, limits=replace(bounds.limits, max_memory=share, pooled_memory=total))
        # a command always runs under a supervisor, so that even one cell is verified in a process of its own
        return verify_all(cells, bounds, jobs)

    def _there(self, cells: Sequence[Cell], bounds: Bounds) -> Running:
        # imported here: few need a cluster
        from fuzzvm.campaigns.cluster.calls import RemoteCaller
        from fuzzvm.campaigns.cluster.session import Session

        assert self.executor is not None
        names = list(dict.fromkeys(cell.mitigation for cell in cells))
        asked = None if self.max_memory is None else self.max_memory << 20
        # how much memory a search may use is for each machine to say, this one included
        limit_process(self._memory())
        with connected(self.executor) as cluster:
            call = RemoteCaller(cluster, Session.begin(names, cluster.hosts, memory=asked, memory_bounded=True))
            yield from verify_all(cells, bounds, self.jobs or len(cells), call)

    def memory_here(self) -> int | None:
        """Return the bytes that one run in this process may have, None where nobody knows."""
        total = self._memory()
        return None if total is None else total - inside.resident_supervisor()

    def _memory(self) -> int | None:
        """Return the bytes that all runs together may have on this machine, None where nobody knows."""
        if self.max_memory is not None:
            return self.max_memory << 20
        free = available_memory()
        return None if free is None else free * 8 // 10
