"""A connection to a scheduler of dask: gives tasks to its workers, and takes in what comes of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import pickle
import queue
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from fuzzvm.campaigns.cluster import worker
from fuzzvm.campaigns.cluster.errors import ClusterError
from fuzzvm.campaigns.cluster.outcomes import Ended, Outcome
from fuzzvm.campaigns.cluster.session import Session, difference, here, host_of
from fuzzvm.campaigns.cluster.tls import Certificates, configured

TLS = "tls://"
CONNECT_SECONDS = 3.0
"""That somebody is given to take connections at the address."""
ANSWER_SECONDS = 30.0
"""That who has taken a connection is given for an answer. A scheduler on a busy machine is one all the same."""
FACTS_SECONDS = 5.0
"""That a worker is given to say what it is. One that is silent says so later."""
WORKERS_SECONDS = 60.0
"""That a command waits for the first worker."""
LOOK_SECONDS = 2.0
"""Between two looks at which workers there are."""
CLOSE_SECONDS = 1.0
_LOST = object()

T = TypeVar("T")


def _distributed() -> Any:
    """Return dask.distributed, silent. Raises ClusterError where it is not installed."""
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(f"--executor needs dask.distributed: pip install 'distributed>=2024.8' ({error})") from error
    # what matters comes as an error; its own handlers would write to our stderr
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return distributed


@contextlib.contextmanager
def connect(
    address: str,
    *,
    on_waiting: Callable[[], None] = lambda: None,
    seconds: float = WORKERS_SECONDS,
    certificates: Certificates | None = None,
) -> Iterator[Cluster]:
    """Connect to a scheduler for the time of the block; waits for the first worker, and checks all that there are.

    The address is `tls://HOST:PORT`, with these certificates or those of dask's configuration, or `HOST:PORT` and as
    dask is configured. `on_waiting` is called when there is no worker yet. Raises ClusterError.
    """
    distributed = _distributed()
    if not address.startswith(TLS):
        security, more = distributed.Security(), ""
    else:
        security = configured(distributed) if certificates is None else certificates.security(distributed)
        more = ", or it and we have no certificates of the same authority"
    within = CONNECT_SECONDS
    try:
        _await_listener(distributed, address)
        within = ANSWER_SECONDS
        if asyncio.run(_kind(distributed, address, security)) != "Scheduler":
            raise ValueError("a worker, perhaps")
        client = distributed.Client(
            address, timeout=ANSWER_SECONDS, set_as_default=False, direct_to_workers=False, security=security
        )
    except Exception as error:
        # what is not dask may answer anything, and dask raises as much
        raise ClusterError(f"no scheduler of dask answers at {address} within {within:g} seconds{more}") from error
    try:
        yield Cluster(client, address, on_waiting, seconds)
    finally:
        # the scheduler forgets what was asked for, and workers end what nobody wants. Where it is gone there is nothing
        # to close: asyncio's "Cannot change state of expiring Timeout" comes out of dask then, in place of our error
        with contextlib.suppress(TimeoutError, RuntimeError):
            client.close(timeout=CLOSE_SECONDS)


def _await_listener(distributed: Any, address: str) -> None:
    """Return once a connection to the address is taken; raises OSError where none is for CONNECT_SECONDS."""
    place = distributed.comm.get_address_host_port(address)
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection(place, timeout=CONNECT_SECONDS).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


async def _kind(distributed: Any, address: str, security: Any) -> object:
    """Return what of dask answers at an address. Raises all sorts of exceptions where nothing does.

    Asked before there is a client: that would wait for ever where a connection is taken and nothing said.
    """
    async with asyncio.timeout(ANSWER_SECONDS):
        async with distributed.rpc(address, connection_args=security.get_connection_args("client")) as there:
            return (await there.identity())["type"]


class Cluster:
    """Gives tasks to workers. Of one thread, but for the signal handlers of that."""

    def __init__(self, client: Any, address: str, on_waiting: Callable[[], None], seconds: float) -> None:
        self._client = client
        self._address = address
        self._tickets = itertools.count()
        self._futures: dict[int, Any] = {}
        self._came: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._lost = False
        self._await_workers(on_waiting, seconds)
        self._check_workers()
        self.hosts = self._count()
        """Threads of workers by the address of their machine; looked at again all the time."""
        client.loop.add_callback(self._look)

    @property
    def threads(self) -> int:
        """How many tasks are run at once at present; at least 1, as workers that have gone may come back."""
        return max(1, sum(self.hosts.values()))

    def submit(self, session: Session, function: Callable[..., object], arguments: tuple[Any, ...]) -> int:
        """Have a call made; those that were submitted first come first. Returns a number that stands for it.

        Raises ClusterError.
        """
        ticket = next(self._tickets)
        payload = pickle.dumps((function, arguments))
        try:
            future = self._client.submit(
                worker.run,
                session,
                payload,
                key=f"fuzzvm-{session.id}-{ticket}",
                pure=False,
                retries=0,
                priority=-ticket,
            )
        except Exception as error:
            # what dask raises when its connection is gone is of no class of its own
            raise self._gone() from error
        self._futures[ticket] = future
        self._client.loop.add_callback(self._follow, ticket, future)
        return ticket

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Return what has come of which since the last call; waits up to that long for the first.

        Raises ClusterError where the scheduler is lost, or a worker cannot run what it is given.
        """
        came: list[tuple[int, Outcome]] = []
        until = time.monotonic() + seconds
        # what was cancelled comes as well, and counts for nothing
        while not came and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._take(came, self._came.get(timeout=left))
                while True:
                    self._take(came, self._came.get_nowait())
            if self._lost:
                raise self._gone()
        return came

    def _gone(self) -> ClusterError:
        return ClusterError(f"the scheduler at {self._address} has ended, or was restarted")

    def cancel(self, tickets: Iterable[int]) -> None:
        """Let go of tasks: those that run are ended soon, and nothing comes of them. Waits for nothing."""
        for ticket in list(tickets):
            if (future := self._futures.pop(ticket, None)) is not None:
                future.release()

    def _take(self, came: list[tuple[int, Outcome]], one: tuple[int, Any]) -> None:
        ticket, result = one
        if (future := self._futures.pop(ticket, None)) is None:
            # it was cancelled
            return
        future.release()
        if result is _LOST:
            self._lost = True
        elif isinstance(result, BaseException):
            came.append((ticket, died(result)))
        else:
            came.append((ticket, result))

    async def _follow(self, ticket: int, future: Any) -> None:
        try:
            result = await future.result()
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            # one that was cancelled here is not waited for any more
            result = _LOST
        except Exception as error:  # noqa: BLE001 - told apart where it is taken in
            result = error
        self._came.put((ticket, result))

    async def _look(self) -> None:
        while self._client.status == "running":
            with contextlib.suppress(OSError):
                self.hosts = _hosts(await self._client.nthreads())
            await asyncio.sleep(LOOK_SECONDS)

    def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Return what the scheduler answers; `question` is begun in the thread of dask. Raises ClusterError."""

        async def asked() -> T:
            answer = asyncio.ensure_future(question())
            while not answer.done() and self._client.status == "running":
                await asyncio.wait([answer], timeout=0.2)
            if not answer.done():
                answer.cancel()
                raise ConnectionError("the scheduler has gone")
            return answer.result()

        try:
            answer: T = self._client.sync(asked, callback_timeout=ANSWER_SECONDS)
        except Exception as error:
            # as in `submit`
            raise self._gone() from error
        return answer

    def _count(self) -> dict[str, int]:
        return _hosts(self._ask(self._client.nthreads))

    def _await_workers(self, on_waiting: Callable[[], None], seconds: float) -> None:
        until = time.monotonic() + seconds
        if not self._count():
            on_waiting()
        while not self._count():
            if time.monotonic() > until:
                raise ClusterError(f"the scheduler at {self._address} has had no worker for {seconds:g} seconds")
            time.sleep(0.2)

    def _check_workers(self) -> None:
        """Raise ClusterError for the first worker that is not like this process."""
        for address, answer in sorted(self._ask(self._facts).items()):
            if isinstance(answer, OSError):
                # it has just gone, or is silent; if it comes back, it says so itself when it is given something
                continue
            if isinstance(answer, BaseException):
                raise ClusterError(f"worker {address} cannot run fuzzvm: {str(answer) or repr(answer)}")
            if differs := difference(here(), answer):
                raise ClusterError(f"worker {address}: it has {differs}")

    async def _facts(self) -> dict[str, Any]:
        """Return what each worker says of itself, or an exception; a TimeoutError for one that is silent."""

        async def of(address: str) -> Any:
            # each by itself: one that is silent keeps back no other's answer
            asked = self._client.run(worker.facts, workers=[address], on_error="return")
            return (await asyncio.wait_for(asked, FACTS_SECONDS))[address]

        addresses = list(await self._client.nthreads())
        answers = await asyncio.gather(*map(of, addresses), return_exceptions=True)
        return dict(zip(addresses, answers, strict=True))


def _hosts(nthreads: Mapping[str, int]) -> dict[str, int]:
    hosts: dict[str, int] = {}
    for address, threads in nthreads.items():
        hosts[host_of(address)] = hosts.get(host_of(address), 0) + threads
    return hosts


def died(error: BaseException) -> Ended:
    """Return a death for an exception of dask's. Raises ClusterError where it is none."""
    if type(error).__name__ == "KilledWorker":
        return Ended("its worker died, and that of each repetition", by_others=True)
    raise ClusterError(f"a worker cannot run fuzzvm: {str(error) or repr(error)}") from error
