"""The executor of a campaign whose tasks are run by the workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from fuzzvm.campaigns.cluster.connection import Cluster
from fuzzvm.campaigns.cluster.errors import ClusterError
from fuzzvm.campaigns.cluster.outcomes import Ended, Outcome, Raised, Refused, value_of
from fuzzvm.campaigns.cluster.session import Session
from fuzzvm.campaigns.executor import Died, Done
from fuzzvm.campaigns.local import DEPTH
from fuzzvm.campaigns.tasks import CampaignResult, CampaignTask, perform
from fuzzvm.supervision import inside

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class RemoteExecutor(Generic[TaskT, ResultT]):
    """Calls a function with each task and `hook_seconds` on a cluster, on up to `jobs` of its threads."""

    def __init__(
        self,
        cluster: Cluster,
        session: Session,
        function: Callable[[TaskT, float], ResultT],
        hook_seconds: float,
        jobs: int | None = None,
    ) -> None:
        self._cluster = cluster
        self._session = session
        self._function = function
        self._hook_seconds = hook_seconds
        self._jobs = jobs
        self._keys: dict[int, int] = {}
        """Of what is under way, by ticket."""
        self._closed = False

    @property
    def room(self) -> int:
        if self._closed:
            return 0
        threads = self._cluster.threads
        return DEPTH * threads - len(self._keys) if self._jobs is None else self._jobs - len(self._keys)

    def submit(self, key: int, task: TaskT) -> None:
        if not self._closed:
            self._keys[self._cluster.submit(self._session, self._function, (task, self._hook_seconds))] = key

    def wait(self, seconds: float) -> list[Done[ResultT] | Died]:
        return [self._report(self._keys.pop(ticket), outcome) for ticket, outcome in self._cluster.wait(seconds)]

    def close(self, seconds: float) -> list[Done[ResultT] | Died]:
        until = time.monotonic() + seconds
        reports: list[Done[ResultT] | Died] = []
        while self._keys and (left := until - time.monotonic()) > 0:
            # what has died is for the next sitting
            reports += [report for report in self.wait(left) if isinstance(report, Done)]
        self._closed = True
        self._cluster.cancel(self._keys)
        self._keys.clear()
        return reports

    def _report(self, key: int, outcome: Outcome) -> Done[ResultT] | Died:
        if isinstance(outcome, Ended):
            return Died(key, outcome.how, outcome.by_others, outcome.by_user_code)
        if isinstance(outcome, Refused):
            raise ClusterError(outcome.why)
        if isinstance(outcome, Raised):
            raise outcome.again()
        return Done(key, cast("ResultT", value_of(outcome)))


def perform_there(task: CampaignTask, hook_seconds: float) -> CampaignResult:
    """Run a task of a campaign in a process of a worker."""
    inside.let_hooks_take(hook_seconds)
    return perform(task)
