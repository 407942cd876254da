"""Processes that run tasks: results, deaths, the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

from fuzzvm.explore.campaigns.executor import Died, Done
from fuzzvm.explore.campaigns.local import LocalExecutor
from fuzzvm.explore.campaigns.watchdog import Watchdog
from tests.clock import HANG

BEGUN = multiprocessing.get_context("fork").Semaphore(0)
"""Counts the tasks that sleep and have begun to."""


def work(task: int | str, watchdog: Watchdog) -> object:
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "leave":
        os._exit(3)
    if task == "large":
        return b"x" * 3_000_000
    if isinstance(task, str):
        BEGUN.release()
        time.sleep(float(task))
        return os.getpid()
    return task * task


def run(executor: LocalExecutor[int | str, object], tasks: dict[int, int | str]) -> dict[int, object]:
    """Run tasks; return what came of each: a result, or how its worker died."""
    waiting = dict(tasks)
    came: dict[int, object] = {}
    until = time.monotonic() + 30
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
            assert came[n] == Died(n, "exit status 3")
        else:
            assert came[n] == n * n
    assert len(executor.pids) == 2
    executor.close(1)


def test_one_that_is_killed_in_the_middle_of_a_message_is_dead() -> None:
    executor = LocalExecutor(work, 1, 10.0)
    executor.submit(1, "large")
    # more than a pipe takes: the worker is held up in the middle of its message
    time.sleep(0.3)
    os.kill(executor.pids[0], signal.SIGKILL)
    assert list(executor.wait(5)) == [Died(1, "killed by SIGKILL", by_others=True)]
    executor.submit(2, "large")
    (report,) = executor.wait(5)
    assert isinstance(report, Done) and report.key == 2
    executor.close(1)


def test_the_end_waits_for_what_is_under_way_and_no_longer() -> None:
    executor = LocalExecutor(work, 2, 10.0)
    # both workers are there, and one of them ends its task in time
    assert run(executor, {4: 4, 5: 5}) == {4: 16, 5: 25}
    executor.submit(1, "0.3")
    executor.submit(2, "60")
    executor.submit(3, "60")
    # what has not begun when the end comes is not begun any more
    for _ in range(2):
        assert BEGUN.acquire(timeout=HANG)
    pids = executor.pids
    began = time.monotonic()
    reports = executor.close(5.0)
    assert time.monotonic() - began < HANG
    assert [report.key for report in reports] == [1]
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        raise AssertionError(f"{pid} is still there")
