"""Where `fuzzvm verify` verifies: in processes of this machine or of a cluster, each run in one or in all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from fuzzvm.cli.executor import connected
from fuzzvm.explore.exhaustive.limits import limit_process
from fuzzvm.explore.exhaustive.memory_use import available_memory
from fuzzvm.explore.matrix import Bounds, Cell, Run, verify_all
from fuzzvm.explore.processes import cores

Running = Generator[tuple[int, Run], None, None]


@dataclass(frozen=True)
class Where:
    """`jobs` is the number of processes, None for all there are; `max_memory` MiB for all of a machine together.

    `executor` is the HOST:PORT of a cluster's scheduler, None for this machine. With `split`, runs go in turn.
    """

    jobs: int | None
    max_memory: int | None
    executor: str | None
    split: bool

    def verify(self, cells: Sequence[Cell], bounds: Bounds, show: Callable[[int], None]) -> Running:
        """Return what verifies cells; `show` hears the states of a run that is split. The bounds have none on memory.

        Raises as `verify_all` and `verify_split` do, and ClusterError.
        """
        return self._here(cells, bounds, show) if self.executor is None else self._there(cells, bounds, show)

    def _here(self, cells: Sequence[Cell], bounds: Bounds, show: Callable[[int], None]) -> Running:
        jobs = self.jobs or cores()
        if not self.split:
            jobs = min(jobs, len(cells))
        # this process searches as well, where runs are split
        processes = jobs + 1 if self.split and jobs > 1 else jobs
        # each has its share in any case, and more while others have less
        total = self._memory()
        share = None if total is None else total // processes
        bounds = replace(bounds, limits=replace(bounds.limits, max_memory=share, pooled_memory=total))
        if not self.split:
            return verify_all(cells, bounds, jobs)
        # imported here, as below: few need it, and a matrix of small runs takes a second
        from fuzzvm.explore.split_matrix import verify_split

        return verify_split(cells, bounds, jobs, show=show)

    def _there(self, cells: Sequence[Cell], bounds: Bounds, show: Callable[[int], None]) -> Running:
        # imported here: few need a cluster
        from fuzzvm.explore.cluster.calls import RemoteCaller
        from fuzzvm.explore.cluster.session import Session

        assert self.executor is not None
        names = list(dict.fromkeys(cell.mitigation for cell in cells))
        asked = None if self.max_memory is None else self.max_memory << 20
        # how much memory a search may use is for each machine to say, this one included
        limit_process(self._memory())
        with connected(self.executor) as cluster:
            call = RemoteCaller(cluster, Session.begin(names, cluster.hosts, memory=asked, memory_bounded=True))
            if self.split:
                from fuzzvm.explore.split_matrix import verify_split

                yield from verify_split(cells, bounds, self.jobs or cluster.threads, call, show)
            else:
                yield from verify_all(cells, bounds, self.jobs or len(cells), call)

    def _memory(self) -> int | None:
        """Return the bytes that all runs together may have on this machine, None where nobody knows."""
        if self.max_memory is not None:
            return self.max_memory << 20
        free = available_memory()
        return None if free is None else free * 8 // 10
