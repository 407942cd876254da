"""What a command says of an address where no scheduler answers, and of workers that do not."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="dask.distributed is not installed (pip install distributed)")

import distributed

from fuzzvm.campaigns.cluster import connection
from fuzzvm.campaigns.cluster.connection import connect
from fuzzvm.campaigns.cluster.errors import ClusterError
from tests.campaigns.cluster.running import Running


@contextlib.contextmanager
def answering(data: bytes) -> Iterator[str]:
    """Something that is no dask, says that to whoever connects, and keeps the connection; yields its address."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            # until the server is closed
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(data)

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for taken in kept:
        taken.close()


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50, b"\xff" * 4096, b"\0" * 4096, (1).to_bytes(8, "little") * 9, b""],
    ids=["http", "ones", "zeros", "short", "silence"],
)
def test_what_is_no_dask_is_no_scheduler(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 1.0)
    with (
        answering(data) as address,
        pytest.raises(ClusterError, match=f"no scheduler of dask answers at {address}"),
        connect(address),
    ):
        pass


def test_a_worker_is_no_scheduler(cluster: Running) -> None:
    with distributed.Client(cluster.address, set_as_default=False) as client:
        worker = min(client.nthreads())
    address = worker.removeprefix("tcp://")
    with pytest.raises(ClusterError, match=f"no scheduler of dask answers at {address}"), connect(address):
        pass


def test_a_worker_that_is_silent_keeps_nobody_waiting(cluster: Running) -> None:
    cluster.workers[0].send_signal(signal.SIGSTOP)
    try:
        with connect(cluster.address) as there:
            assert there.threads == 2
    finally:
        cluster.workers[0].send_signal(signal.SIGCONT)


def test_a_scheduler_that_ends_before_there_are_workers_is_said(tmp_path: Path) -> None:
    running = Running(tmp_path / "cluster", workers=0)

    def end() -> None:
        running.scheduler.kill()
        running.scheduler.wait()

    try:
        with (
            pytest.raises(ClusterError, match=r"the scheduler at .* has ended, or was restarted"),
            connect(running.address, on_waiting=end),
        ):
            pass
    finally:
        running.end()
