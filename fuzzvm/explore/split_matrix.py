"""Systems verified one after the other, each in all processes: for the few that are too large for one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack

from fuzzvm.explore.exhaustive.split import Split
from fuzzvm.explore.matrix import Bounds, Cell, Run, verify_cell
from fuzzvm.explore.processes import Caller
from fuzzvm.explore.same_processes import SameProcesses


def verify_split(
    cells: Sequence[Cell],
    bounds: Bounds,
    jobs: int,
    call: Caller | None = None,
    show: Callable[[int], None] | None = None,
) -> Generator[tuple[int, Run], None, None]:
    """Verify cells in turn, each in up to `jobs` processes; yield each one's index and run when done.

    `call` says where, the processes of this machine if it is None; `show` hears how many states of the cell have been
    visited. Bounds on memory are for each process. Closing the iterator, or an exception in it, ends the processes.
    Raises as `verify_cell` does, and DifferentProgramsError.
    """
    for index, cell in enumerate(cells):
        with ExitStack() as stack:
            # begun anew for each, with nothing of the one before it
            where = call if call is not None else stack.enter_context(SameProcesses())
            split = Split(cell, jobs, where, reduce=bounds.reduce, show=show)
            run = verify_cell(cell, bounds, elsewhere=split.search)
        yield index, run
