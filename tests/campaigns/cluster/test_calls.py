"""Calls on a cluster: what comes back, what dies, what is refused, and how much memory each may use."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("distributed", reason="dask.distributed is not installed (pip install distributed)")

from distributed.scheduler import KilledWorker

from fuzzvm.campaigns.cluster.calls import ATTEMPTS, RemoteCaller
from fuzzvm.campaigns.cluster.connection import Cluster, connect, died
from fuzzvm.campaigns.cluster.errors import ClusterError
from fuzzvm.campaigns.cluster.executor import RemoteExecutor
from fuzzvm.campaigns.cluster.outcomes import Raised
from fuzzvm.campaigns.cluster.session import Session
from fuzzvm.campaigns.executor import Died, Done
from fuzzvm.cli.input_errors import INPUT_ERRORS
from fuzzvm.exhaustive import limits
from fuzzvm.exhaustive.limits import Limits, StoppedError, Watch
from fuzzvm.exhaustive.memory_use import available_memory
from fuzzvm.machine.errors import UnkeyableError
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.mitigations.sent_files import SentFile
from tests.campaigns.cluster.running import Running
from tests.campaigns.killing import alive, children
from tests.clock import FOREVER, wait_until


def square(number: int) -> int:
    return number * number


def pid_of(number: int) -> int:
    return os.getpid()


def raises(number: int) -> int:
    raise UnkeyableError("no key", f"{number}.py", 7)


def dies(folder: str, times: int) -> int:
    """Die the first times that it is called with a folder; return how often it was."""
    called = len(list(Path(folder).iterdir())) + 1
    (Path(folder) / str(called)).touch()
    if called <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return called


def sleeps(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def most_memory() -> int | None:
    return Watch(Limits())._limits.max_memory


def stays(begun: Path, hook_seconds: float) -> None:
    begun.touch()
    time.sleep(FOREVER)


def work(task: str, hook_seconds: float) -> object:
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "leave":
        os._exit(3)
    time.sleep(float(task))
    return hook_seconds


@pytest.fixture
def connected(cluster: Running) -> Iterator[Cluster]:
    with connect(cluster.address) as there:
        yield there


def session_of(cluster: Cluster, **given: Any) -> Session:
    return Session.begin((), cluster.hosts, **({"memory": None, "memory_bounded": True} | given))


def test_calls_return_what_they_return_here(connected: Cluster) -> None:
    call = RemoteCaller(connected, session_of(connected))
    assert connected.threads == 2
    for jobs in (1, 3, 100):
        assert sorted(call(square, [(n,) for n in range(20)], jobs)) == [(n, n * n) for n in range(20)]
    assert list(call(square, [], 3)) == []
    # the first ones first, and one process a worker, which is kept
    assert [index for index, _ in call(square, [(n,) for n in range(5)], 1)] == list(range(5))
    assert len({pid for _, pid in call(pid_of, [(n,) for n in range(20)], 4)}) == 2


def test_what_a_call_raises_is_raised(connected: Cluster) -> None:
    call = RemoteCaller(connected, session_of(connected))
    with pytest.raises(UnkeyableError, match=r"4\.py:7: no key"):
        list(call(raises, [(4,)], 2))


def test_a_call_whose_process_dies_is_made_again_and_not_for_ever(connected: Cluster, tmp_path: Path) -> None:
    call = RemoteCaller(connected, session_of(connected))
    (tmp_path / "a").mkdir()
    assert list(call(dies, [(str(tmp_path / "a"), ATTEMPTS - 1)], 2)) == [(0, ATTEMPTS)]
    (tmp_path / "b").mkdir()
    with pytest.raises(ClusterError, match=r"ended 3 times .*killed by SIGKILL"):
        list(call(dies, [(str(tmp_path / "b"), ATTEMPTS)], 2))


def test_a_caller_that_is_closed_ends_its_calls(cluster: Running, connected: Cluster) -> None:
    call = RemoteCaller(connected, session_of(connected))
    running = call(sleeps, [(0.0,), (FOREVER,), (FOREVER,)], 3)
    _, first = next(running)
    running.close()
    # the one that has nothing to do is kept for a while
    wait_until(lambda: set(cluster.children()) <= {first})
    # and the workers are free again, at once
    assert list(call(square, [(3,)], 1)) == [(0, 9)]


def test_a_worker_that_is_killed_takes_no_call_along(cluster: Running, connected: Cluster) -> None:
    call = RemoteCaller(connected, session_of(connected))
    running = call(sleeps, [(0.0,), (0.0,), *[(1.0,)] * 4], 6)
    came = [next(running), next(running)]
    cluster.workers[0].kill()
    came += running
    assert sorted(index for index, _ in came) == list(range(6))
    wait_until(lambda: connected.threads == 1)


def test_a_process_ends_with_its_worker_in_the_middle_of_a_call(
    cluster: Running, connected: Cluster, tmp_path: Path
) -> None:
    executor = RemoteExecutor(connected, session_of(connected), stays, 7.0)
    for key in (1, 2):
        executor.submit(key, tmp_path / str(key))
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    (orphan,) = filter(alive, children(cluster.workers[0].pid))
    cluster.workers[0].kill()
    wait_until(lambda: not alive(orphan))
    executor.close(0)


def test_a_process_of_another_code_refuses(cluster: Running, connected: Cluster) -> None:
    session = session_of(connected)
    other = Session(**(vars(session) | {"made_by": session.made_by | {"Python": "2.7"}}))
    with pytest.raises(ClusterError, match=r"worker tcp://.*: it has another Python \(3\.\d+, here 2\.7\)"):
        list(RemoteCaller(connected, other)(square, [(3,)], 1))
    other = Session(**(vars(session) | {"id": "x", "mitigations": ("nix",)}))
    with pytest.raises(ClusterError, match=r"worker tcp://.*: no mitigation 'nix'"):
        list(RemoteCaller(connected, other)(square, [(3,)], 1))


def test_the_executor_of_a_campaign_reports_each_task_once(connected: Cluster) -> None:
    executor = RemoteExecutor(connected, session_of(connected), work, 7.0)
    assert executor.room == 4
    tasks = {1: "0", 2: "die", 3: "leave", 4: "0.1"}
    for key, task in tasks.items():
        executor.submit(key, task)
    assert executor.room == 0
    came: dict[int, Any] = {}
    wait_until(lambda: came.update({report.key: report for report in executor.wait(0.1)}) or len(came) == 4)
    assert came[1] == Done(1, 7.0) and came[4] == Done(4, 7.0)
    assert came[2] == Died(2, "killed by SIGKILL", by_others=True)
    assert came[3] == Died(3, "exit status 3 in the middle of its work")
    executor.submit(5, "0")
    # the end waits for what is under way, and no longer
    assert [report.key for report in executor.close(FOREVER)] == [5]
    assert executor.room == 0 and list(executor.close(0)) == []


def test_the_end_waits_only_so_long_for_what_is_under_way(cluster: Running, connected: Cluster, tmp_path: Path) -> None:
    executor = RemoteExecutor(connected, session_of(connected), stays, 7.0)
    executor.submit(1, tmp_path / "begun")
    wait_until((tmp_path / "begun").exists)
    assert list(executor.close(0.1)) == []
    wait_until(lambda: not cluster.children())


def test_what_dask_says_of_lost_workers_is_a_death_by_others() -> None:
    """It says so when it has run a task four times and lost the worker each time."""
    assert died(KilledWorker("task", None, 3)).by_others
    with pytest.raises(ClusterError, match="a worker cannot run fuzzvm: no"):
        died(ValueError("no"))


def test_a_cluster_without_workers_is_said(tmp_path: Path) -> None:
    running = Running(tmp_path / "cluster", workers=0)
    waited = []
    try:
        with (
            pytest.raises(ClusterError, match=r"has had no worker for 0\.1 seconds"),
            connect(running.address, on_waiting=lambda: waited.append(1), seconds=0.1),
        ):
            pass
    finally:
        running.end()
    assert waited == [1]


def test_memory_is_shared_by_the_threads_of_a_machine(connected: Cluster) -> None:
    call = RemoteCaller(connected, session_of(connected, memory=1 << 30))
    assert {most for _, most in call(most_memory, [()] * 4, 4)} == {1 << 29}
    (_, most), *_ = RemoteCaller(connected, session_of(connected))(most_memory, [()], 1)
    free = available_memory()
    assert most is not None and free is not None and free * 0.8 / 2 * 0.5 < most < free * 0.8 / 2 * 1.5
    call = RemoteCaller(connected, session_of(connected, memory_bounded=False))
    assert list(call(most_memory, [()], 1)) == [(0, None)]


def test_a_machine_that_has_come_later_counts_its_own_threads() -> None:
    session = Session("", {}, {}, (), 1000, True, {"a": 4})
    assert session.memory_of_one("a", 2) == 250
    assert session.memory_of_one("b", 2) == 500
    assert session.memory_of_one("a", 8) == 125


def test_a_bound_of_the_process_is_for_searches_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_of_this_process", [None])
    Watch(Limits()).look(1)
    limits.limit_process(1)
    with pytest.raises(StoppedError, match="memory limit"):
        Watch(Limits()).look(1)
    Watch(Limits(max_memory=1 << 60)).look(1)


@given(st.sampled_from([*INPUT_ERRORS, UnkeyableError, ValueError, AssertionError]), st.text())
def test_an_exception_comes_back_with_its_class_and_message(kind: type[Exception], message: str) -> None:
    error = kind.__new__(kind, message)
    again = pickle.loads(pickle.dumps(Raised.of(error))).again()
    assert type(again) is kind
    assert again.args == (str(error),)


def test_an_exception_of_unknown_code_is_told_and_not_imported() -> None:
    again = Raised("antigravity", "Error", "message", "the traceback").again()
    assert type(again) is RuntimeError and "the traceback" in str(again)


def test_a_text_stands_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_files, "_sent", {})
    text = (
        "from fuzzvm.kernel.hooks import Mitigation\nclass Mine(Mitigation):\n    name = 'é'\n"
        "    def before_free(self, k, level, token):\n        raise ValueError\n        yield\n"
    )
    with pytest.raises(registry.MitigationError, match="no such file"):
        registry.get("sent.py:Mine")
    sent_files.provide({"sent.py": SentFile("/far/sent.py", b"# coding: latin-1\n" + text.encode("latin-1"))})
    assert registry.get("sent.py:Mine").name == "é"
    assert registry.get("sent.py:Mine+none").__name__
    assert registry.split("sent.py:Mine+none") == ["sent.py:Mine", "none"]
    sent_files.provide({"sent.py": SentFile("/far/sent.py", b"import nonesuch\n")})
    with pytest.raises(registry.MitigationError, match=r"^/far/sent\.py:1: ModuleNotFoundError"):
        registry.get("sent.py:Mine")
    sent_files.provide({"sent.py": SentFile("/far/sent.py", b"x = (\n")})
    with pytest.raises(registry.MitigationError, match=r"^/far/sent\.py:1: SyntaxError"):
        registry.get("sent.py:Mine")
