"""Which code is the user's, and the place that an error or a stack points to. The user's is what lies in this file."""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Callable, Iterator

import pytest

import fuzzvm
from fuzzvm.supervision import user_code
from fuzzvm.supervision.user_code import is_interrupt, is_users, place_in, place_in_dump, raised_by_user, said_by, shown

OWN = fuzzvm.__file__


def line_of(function: Callable[..., object], offset: int) -> int:
    return inspect.getsourcelines(function)[1] + offset


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def test_whose_a_file_is() -> None:
    assert is_users(__file__)
    assert not is_users(OWN)
    assert not is_users(json.__file__)
    assert not is_users(pytest.__file__)
    assert not is_users("<frozen importlib._bootstrap>")


def test_an_installed_file_is_the_users_where_it_is_registered() -> None:
    user_code.register(pytest.__file__)
    try:
        assert is_users(pytest.__file__)
    finally:
        user_code._registered.clear()
        user_code._users.clear()


def through_a_library() -> None:
    json.loads("{")


def test_the_place_of_an_error_is_the_users_line_and_not_the_librarys() -> None:
    error = raised(through_a_library)
    assert place_in(error) == (__file__, line_of(through_a_library, 1), "through_a_library")
    assert not raised_by_user(error)
    assert place_in(raised(lambda: user_code.place_in_dump(None))) is not None  # type: ignore[arg-type]


def stops() -> Iterator[int]:
    yield 1
    raise StopIteration


def test_what_python_raises_instead_is_where_it_came_from() -> None:
    """RuntimeError, in the caller of the generator: the caller here is a library."""
    error = raised(lambda: list(stops()))
    assert isinstance(error, RuntimeError)
    error.__traceback__ = None
    assert place_in(error) == (__file__, line_of(stops, 2), "stops")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    def __repr__(self) -> str:
        raise RuntimeError


def test_what_is_said_is_one_printable_line() -> None:
    assert said_by(KeyError("a\nb")) == "KeyError: 'a\\nb'"
    assert said_by(ValueError("two\nlines \x1b[2J")) == r"ValueError: two lines \x1b[2J"
    assert said_by(UnprintableError()) == "UnprintableError: (it cannot be printed)"
    assert said_by(GeneratorExit()) == "GeneratorExit"
    assert len(said_by(ValueError("x" * 10_000))) < 600
    assert shown(UnprintableError()) == "a UnprintableError"
    assert shown("\x1b") == "'\\x1b'"
    assert len(shown("x" * 10_000)) < 100


def raises_it_itself() -> None:
    raise KeyboardInterrupt


def is_interrupted() -> None:
    signal.raise_signal(signal.SIGINT)
    # Python's handler runs between two instructions, at the latest here
    for _ in range(10):
        pass


def test_ctrl_c_is_told_from_what_user_code_raises() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert is_interrupt(raised(is_interrupted))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_interrupt(raised(raises_it_itself))
    assert not is_interrupt(ValueError())


STACK = f"""\
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 1, in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "{json.__file__}", line 7 in loads
  File "/home/her/mine.py", line 9 in before_clear
  File "{OWN}", line 3 in step
  File "/home/her/venv/bin/fuzzvm", line 8 in <module>
"""


def test_a_stack_points_to_the_users_innermost_line() -> None:
    assert place_in_dump(STACK) == "/home/her/mine.py:9: before_clear"
    # who has started fuzzvm is not meant
    own = f'  File "{OWN}", line 4 in deeper\n'
    assert place_in_dump(STACK.replace('  File "/home/her/mine.py", line 9 in before_clear\n', "")) == ""
    # nor is who has called fuzzvm's own code
    assert place_in_dump(STACK.replace(f'  File "{json.__file__}", line 7 in loads\n', own)) == ""
    installed = STACK.replace("/home/her/mine.py", "/v/lib/python3.11/site-packages/mine.py")
    assert place_in_dump(installed) == ""
    assert place_in_dump(installed, ["/v/lib/python3.11/site-packages/mine.py"]).endswith("mine.py:9: before_clear")
    assert place_in_dump("") == ""
