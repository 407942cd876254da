"""`processes.parallel.call_all` on a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar, cast

from fuzzvm.campaigns.cluster.connection import LOOK_SECONDS, Cluster
from fuzzvm.campaigns.cluster.errors import ClusterError
from fuzzvm.campaigns.cluster.outcomes import Ended, Raised, Refused, value_of
from fuzzvm.campaigns.cluster.session import Session
from fuzzvm.supervision.errors import UserCodeError

T = TypeVar("T")

ATTEMPTS = 3
"""Times that a call is made whose process dies: for want of memory it dies each time, by accident once."""


class RemoteCaller:
    """Makes calls on a cluster for one session. As by `parallel.call_all`, a call may be made more than once there."""

    def __init__(self, cluster: Cluster, session: Session) -> None:
        self._cluster = cluster
        self._session = session

    def __call__(
        self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
    ) -> Generator[tuple[int, T], None, None]:
        """Call a function with each of the arguments, up to `jobs` at once, the first ones first.

        Yields the index of each and what it returned, when it is done. Closing the iterator, or an exception in it,
        ends the calls. Raises what the function raises, ClusterError, and UserCodeError where user code does not end or
        has ended a process.
        """
        waiting = list(range(len(arguments)))[::-1]
        under_way: dict[int, int] = {}
        deaths: Counter[int] = Counter()

        def start(index: int) -> None:
            under_way[self._cluster.submit(self._session, function, arguments[index])] = index

        try:
            while waiting or under_way:
                # no more than there are threads: one that waits behind a long call waits in vain when another is free
                while waiting and len(under_way) < min(jobs, self._cluster.threads):
                    start(waiting.pop())
                for ticket, outcome in self._cluster.wait(LOOK_SECONDS):
                    index = under_way.pop(ticket)
                    if isinstance(outcome, Raised):
                        raise outcome.again()
                    if isinstance(outcome, Refused):
                        raise ClusterError(outcome.why)
                    if isinstance(outcome, Ended) and outcome.by_user_code:
                        raise UserCodeError(outcome.how)
                    if isinstance(outcome, Ended):
                        deaths[index] += 1
                        if deaths[index] == ATTEMPTS:
                            raise ClusterError(
                                f"a process on a worker was ended {ATTEMPTS} times over the same task, for want of "
                                f"memory perhaps ({outcome.how}); try --max-memory"
                            )
                        start(index)
                    else:
                        yield index, cast("T", value_of(outcome))
        finally:
            self._cluster.cancel(under_way)
