"""Processes that run tasks: results, deaths, the end."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import termios
import threading
import time
from array import array
from multiprocessing.connection import Connection

import pytest

from fuzzvm.campaigns.executor import Died, Done
from fuzzvm.campaigns.local import LocalExecutor
from tests.clock import FOREVER, PATIENCE, wait_until

BEGUN = multiprocessing.get_context("fork").Semaphore(0)
"""Counts the tasks that wait and have begun to."""
GO_ON = multiprocessing.get_context("fork").Semaphore(0)
"""Ends one of the tasks that wait for it."""


def work(task: int | str) -> object:
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "leave":
        os._exit(3)
    if task == "large":
        return b"x" * 3_000_000
    if task == "wait":
        BEGUN.release()
        GO_ON.acquire()
        return os.getpid()
    if isinstance(task, str):
        BEGUN.release()
        time.sleep(float(task))
        return os.getpid()
    return task * task


def run(executor: LocalExecutor[int | str, object], tasks: dict[int, int | str]) -> dict[int, object]:
    """Run tasks; return what came of each: a result, or how its worker died."""
    waiting = dict(tasks)
    came: dict[int, object] = {}
    until = time.monotonic() + PATIENCE
    while len(came) < len(tasks):
        assert time.monotonic() < until
        while waiting and executor.room > 0:
            key = min(waiting)
            executor.submit(key, waiting.pop(key))
        for report in executor.wait(0.1):
            assert report.key not in came
            came[report.key] = report.result if isinstance(report, Done) else report
    return came


def test_each_task_is_reported_once() -> None:
    executor = LocalExecutor(work, 3, 10.0)
    assert run(executor, {n: n for n in range(200)}) == {n: n * n for n in range(200)}
    executor.close(1)


def test_a_worker_that_dies_takes_its_task_along_and_no_other() -> None:
    executor = LocalExecutor(work, 2, 10.0)
    tasks: dict[int, int | str] = {n: "die" if n % 5 == 0 else "leave" if n % 7 == 0 else n for n in range(30)}
    came = run(executor, tasks)
    for n, task in tasks.items():
        if task == "die":
            assert came[n] == Died(n, "killed by SIGKILL", by_others=True)
        elif task == "leave":
            died = came[n]
            # it also names what user code is loaded, which other tests may have done
            assert isinstance(died, Died) and died.how.startswith("exit status 3 in the middle of its work")
        else:
            assert came[n] == n * n
    assert len(executor.pids) == 2
    executor.close(1)


def test_one_that_is_killed_in_the_middle_of_a_message_is_dead() -> None:
    executor = LocalExecutor(work, 1, 10.0)
    executor.submit(1, "large")
    # more than a pipe takes: the worker is held up in the middle of its message
    wait_until(lambda: unread(executor._workers[0].process.connection))
    os.kill(executor.pids[0], signal.SIGKILL)
    assert list(executor.wait(PATIENCE)) == [Died(1, "killed by SIGKILL", by_others=True)]
    executor.submit(2, "large")
    (report,) = executor.wait(PATIENCE)
    assert isinstance(report, Done) and report.key == 2
    executor.close(1)


def unread(pipe: Connection) -> int:
    """Return how many bytes a pipe holds that nobody has read."""
    count = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_the_end_waits_for_what_is_under_way() -> None:
    executor = LocalExecutor(work, 2, 10.0)
    for key in (1, 2):
        executor.submit(key, "wait")
    for _ in range(2):
        assert BEGUN.acquire(timeout=PATIENCE)
    # what has not begun when the end comes is not begun any more
    executor.submit(3, str(FOREVER))

    def let_them_go_on() -> None:
        wait_until(lambda: executor._stop.value)
        for _ in range(2):
            GO_ON.release()

    threading.Thread(target=let_them_go_on).start()
    assert sorted(report.key for report in executor.close(FOREVER)) == [1, 2]


def test_the_end_waits_no_longer_than_it_is_to() -> None:
    executor = LocalExecutor(work, 2, 10.0)
    for key in (1, 2):
        executor.submit(key, str(FOREVER))
    for _ in range(2):
        assert BEGUN.acquire(timeout=PATIENCE)
    pids = executor.pids
    assert list(executor.close(0.1)) == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
