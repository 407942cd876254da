"""A function in a process of its own, guarded. What lies in this file is code of the user, and misbehaves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import read
from fuzzvm.machine.blame import blamed
from fuzzvm.machine.errors import ProgramError, StoppedError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.ops import Load, Steps
from fuzzvm.supervision import inside, user_code
from fuzzvm.supervision.call import call
from fuzzvm.supervision.channel import resident_of
from fuzzvm.supervision.errors import UserCodeError
from tests.campaigns.killing import alive
from tests.clock import wait_until
from tests.support import Follow, start_machine


def ending(function: Callable[[], object], hook_seconds: float = 0.3) -> str:
    """Return what is said of a function that does not return."""

    def guarded() -> object:
        inside.let_hooks_take(hook_seconds)
        # of other tests
        user_code._registered.clear()
        inside.watch(__file__)
        return function()

    with pytest.raises(UserCodeError) as caught:
        call(guarded, blamed)
    return str(caught.value)


def test_what_it_returns_or_raises_comes_back() -> None:
    here = os.getpid()
    assert call(lambda: (os.getpid() != here, "x" * 1_000_000), blamed) == (True, "x" * 1_000_000)
    # a pickle cannot make it again of its message alone
    with pytest.raises(CorpusError, match="x: No such file"):
        call(raises_an_error_of_fuzzvms_own, blamed)
    with pytest.raises(ProgramError, match=r"test_call\.py:\d+: GeneratorExit"):
        call(raises_generator_exit, blamed)


def raises_an_error_of_fuzzvms_own() -> None:
    read(Path("x"))


def raises_generator_exit() -> NoReturn:
    raise GeneratorExit


def loops() -> None:
    while True:
        pass


def swallows() -> None:
    while True:
        with contextlib.suppress(BaseException):
            loops()


def backtracks() -> None:
    re.match("(a+)+$", "a" * 64 + "b")


def switches_the_guard_off() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    loops()


@pytest.mark.parametrize("function", [loops, swallows, backtracks, switches_the_guard_off])
def test_what_does_not_end_is_ended_and_named(function: Callable[[], None]) -> None:
    said = ending(function)
    assert said.startswith(f"{__file__}:")
    assert "has neither yielded nor returned for 0" in said


def locks() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def test_what_waits_for_ever_is_ended_as_well() -> None:
    for function in (locks, lambda: time.sleep(1e6)):
        assert "has neither yielded nor returned for 0.3 seconds" in ending(function)


def leaves() -> None:
    os._exit(0)


def crashes() -> None:
    ctypes.string_at(0)


def test_what_ends_the_process_is_said() -> None:
    assert ending(leaves) == f"exit status 0 in the middle of its work, perhaps by os._exit in {__file__}"
    line = crashes.__code__.co_firstlineno + 1
    assert ending(crashes) == f"{__file__}:{line}: crashes has ended the process: SIGSEGV"
    assert ending(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "killed by SIGKILL"


def test_a_copy_of_the_process_does_not_go_on_with_its_work(tmp_path: Path) -> None:
    def forks() -> None:
        os.fork()
        (tmp_path / str(os.getpid())).touch()

    assert (
        f"{__file__}:{forks.__code__.co_firstlineno + 1}: forks, called by guarded,: user code must not fork"
        in ending(forks)
    )
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_that_it_has_started_outlives_it() -> None:
    def starts() -> int:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid

    left = call(starts, blamed)
    wait_until(lambda: not alive(left))


def test_what_closes_everything_does_not_come_back_into_the_parents_work() -> None:
    def closes() -> None:
        os.closerange(3, 200)

    assert "in the middle of its work" in ending(closes)


# Bounds


def goes_on() -> Steps[None]:
    number = 0
    while True:
        number = (number + 1) % 7
        yield Load(number)


def test_a_bound_stops_a_run_before_its_next_step() -> None:
    """The loop of a run looks at no clock, and is never without code of the user for long."""

    def runs() -> str:
        with inside.bounded(StoppedError, name="the time is over", seconds=0.1, lag=0):
            execute(start_machine(goes_on()), Follow(), max_steps=10**12)
        return "it has ended"

    with pytest.raises(StoppedError, match=r"^the time is over"):
        call(runs, blamed)


def test_a_bound_stops_fuzzvms_own_code_at_once() -> None:
    def runs() -> str:
        # of this process alone: what stands here is taken for fuzzvm's own
        user_code._users[__file__] = False
        inside.is_own = lambda filename: True  # type: ignore[assignment]
        with inside.bounded(StoppedError, name="the time is over", seconds=0.1, lag=0):
            loops()
        return "it has ended"

    with pytest.raises(StoppedError, match=r"^the time is over$"):
        call(runs, blamed)


def test_a_bound_that_user_code_does_not_heed_ends_the_process() -> None:
    def runs() -> None:
        with inside.bounded(StoppedError, name="the time is over", seconds=0.1, lag=0):
            swallows()

    assert re.search(r"test_call\.py:\d+: .*has neither yielded nor returned; the time is over", ending(runs, 60))


def test_a_bound_does_not_end_a_process_that_has_no_processor_to_stop_on() -> None:
    """Nor in a library, where nothing is raised: Hypothesis draws the rest of a batch, on a machine that is busy."""

    def runs() -> str:
        user_code._users[__file__] = False
        with inside.bounded(StoppedError, name="the time is over", seconds=0.1, lag=0):
            time.sleep(2.5 * inside.GRACE_SECONDS)
        return "it has ended"

    assert call(runs, blamed) == "it has ended"


def test_a_bound_on_memory_is_one_as_well() -> None:
    def passed() -> str:
        return "all MiB reached" if resident_of("self") > most else ""

    most = resident_of("self") + (32 << 20)
    eaten: list[bytearray] = []

    def eats() -> None:
        with inside.bounded(StoppedError, name="", passed=passed, memory=most):
            while True:
                eaten.append(bytearray(1 << 20))

    # the guard says so, or the owner where it is first
    assert re.search("all MiB reached|[0-9]+ MiB of memory", ending(eats, 60))


def test_a_bound_is_over_with_its_body() -> None:
    def runs() -> str:
        user_code._users[__file__] = False
        inside.is_own = lambda filename: True  # type: ignore[assignment]
        with inside.bounded(StoppedError, name="the time is over", seconds=0.2, lag=0):
            pass
        until = time.monotonic() + 0.8
        while time.monotonic() < until:
            pass
        execute(start_machine(goes_on()), Follow(), max_steps=100)
        return "it has ended"

    assert call(runs, blamed) == "it has ended"


def test_where_nobody_guards_nothing_is_bounded() -> None:
    with inside.bounded(StoppedError, name="the time is over", seconds=0.0):
        execute(start_machine(goes_on()), Follow(), max_steps=1000)
    assert inside.hook_seconds() == 0
