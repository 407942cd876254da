"""What programs raise, and programs that yield without end. The user's code is what lies in this file."""

from __future__ import annotations

import pickle
import signal
from functools import partial

import pytest

from fuzzvm.exhaustive.automaton import Automaton, Values
from fuzzvm.exhaustive.automaton.automaton import ENDLESS_IN_HOOK, ENDLESS_RESPONSES
from fuzzvm.machine.blame import blamed
from fuzzvm.machine.errors import ModelError, ProgramError, StoppedError, UnkeyableError
from fuzzvm.machine.execution import MAX_STEPS, execute
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Annotation, Load, Rmw, Steps
from fuzzvm.machine.program import MAX_ANNOTATIONS, Hook
from fuzzvm.supervision import stopping
from fuzzvm.supervision.errors import pack, unpack
from tests.support import Follow, start_machine

ERRORS = [SystemExit(0), GeneratorExit(), KeyboardInterrupt(), BaseException("x"), StoppedError("--max-seconds 3")]


def raises(number: int) -> Steps[None]:
    yield Load(0)
    raise ERRORS[number]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_whatever_a_program_raises_is_its_own_error(number: int) -> None:
    """None of these is taken for what it says: the end of the command, a bound, or Ctrl-C."""
    automaton = Automaton(GeneratorProgram(partial(raises, number)), Values())
    node = automaton.start.target
    assert node is not None
    for run in (
        lambda: execute(start_machine(raises(number)), Follow()),
        lambda: execute(start_machine(raises(number), tracing=True), Follow()),
        lambda: Machine(SequentialConsistency(1)).boot(raises(number)),
        lambda: automaton.next(node, 0),
    ):
        with pytest.raises(ProgramError) as caught:
            run()
        assert (caught.value.filename, caught.value.line) == (__file__, raises.__code__.co_firstlineno + 2)
        assert caught.value.message.startswith(type(ERRORS[number]).__name__)


def interrupted() -> Steps[None]:
    yield Load(0)
    signal.raise_signal(signal.SIGINT)
    yield Load(0)


def test_ctrl_c_is_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            execute(start_machine(interrupted()), Follow())
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stop_that_was_asked_for_is_no_error_of_the_program() -> None:
    def stops() -> Steps[None]:
        yield Load(0)
        stopping.ask(lambda: StoppedError("the time is over"))
        yield Load(0)
        yield Load(0)

    automaton = Automaton(GeneratorProgram(stops), Values())
    for traced in (False, True):
        with pytest.raises(StoppedError, match="the time is over"):
            execute(start_machine(stops(), tracing=traced), Follow())
        stopping.withdraw()
    node = automaton.start.target
    assert node is not None
    node = automaton.next(node, 0).target
    assert node is not None
    with pytest.raises(StoppedError):
        automaton.next(node, 0)
    stopping.withdraw()
    assert automaton.next(node, 0).target is not None


def test_blame_is_for_what_came_through_user_code() -> None:
    with pytest.raises(ZeroDivisionError) as divided:
        print(1 // 0)  # noqa: T201
    error = blamed(divided.value)
    assert isinstance(error, ProgramError) and error.filename == __file__
    known = UnkeyableError("no key", "mine.py", 3)
    assert blamed(known) is known
    with pytest.raises(TypeError) as of_python:
        pickle.loads(None)  # type: ignore[arg-type]
    of_python.value.__traceback__ = None
    assert blamed(of_python.value) is of_python.value


@pytest.mark.parametrize(
    "error",
    [ProgramError("x", "mine.py", 3), UnkeyableError("x", "m", 1), ModelError("a", "b", address=3), KeyError(1)],
)
def test_exceptions_come_through_to_another_process_whole(error: BaseException) -> None:
    again = unpack(pack(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_an_exception_that_nothing_can_pack_is_told() -> None:
    class OwnError(Exception):
        pass

    again = unpack(pack(OwnError("it stands")))
    assert isinstance(again, RuntimeError) and "OwnError: it stands" in str(again)


# Without end


def counts() -> Steps[None]:
    number = 0
    while True:
        number += 1
        yield Load(0)
        if number < 0:
            return


def counts_in_memory() -> Steps[None]:
    while True:
        yield Rmw(0, more)


def more(value: int) -> int:
    return value + 1


def turns() -> Steps[None]:
    while True:
        yield Load(0)


def annotates() -> Steps[None]:
    yield Load(0)
    while True:
        yield Annotation()


def long(times: int) -> Steps[None]:
    number = 0
    while number < times:
        number += 1
        yield Load(0)


def test_a_run_that_only_its_own_counter_keeps_going_is_an_error() -> None:
    with pytest.raises(ProgramError, match="counts yields without end") as caught:
        execute(start_machine(counts()), Follow())
    assert caught.value.filename == __file__


def test_a_run_that_comes_back_to_where_it_was_is_a_finding() -> None:
    failure = execute(start_machine(turns()), Follow()).failure
    assert failure is not None and failure.error == "no-progress"
    assert failure.message == f"not done after {MAX_STEPS} steps; CPU 0 is in turns"


def test_a_run_with_a_shorter_limit_says_nothing_of_the_program() -> None:
    failure = execute(start_machine(counts()), Follow(), max_steps=100).failure
    assert failure is not None and failure.error == "no-progress"


def test_annotations_without_end_are_an_error_for_each_who_runs_them() -> None:
    automaton = Automaton(GeneratorProgram(annotates), Values())
    node = automaton.start.target
    assert node is not None
    for run in (
        lambda: execute(start_machine(annotates()), Follow()),
        lambda: automaton.next(node, 0),
        lambda: Machine(SequentialConsistency(1)).boot(annotates(), max_steps=10 * MAX_ANNOTATIONS),
    ):
        with pytest.raises(ProgramError, match="annotates yields without end"):
            run()


def walked(automaton: Automaton, steps: int) -> None:
    node = automaton.start.target
    for _ in range(steps):
        if node is None or node.op is None:
            return
        node = automaton.next(node, 0).target


def test_local_states_of_one_call_are_so_many_and_no_more() -> None:
    walked(Automaton(GeneratorProgram(lambda: long(ENDLESS_IN_HOOK - 1)), Values()), 10**6)
    with pytest.raises(UnkeyableError, match=r"counts yields without end, or for too long: more than \d+ operations"):
        walked(Automaton(GeneratorProgram(counts), Values()), 10**6)


def calls(times: int) -> Steps[None]:
    number = 0
    while number < times:
        number += 1
        yield from long(100)


def test_what_is_counted_is_one_call_of_the_users_and_not_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is fuzzvm's own here, and calls a hook again and again."""

    def hook(program: GeneratorProgram) -> Hook | None:
        inner = program._generator.gi_yieldfrom  # type: ignore[attr-defined]
        return None if inner is None else Hook(inner, "long", program.place())

    monkeypatch.setattr(GeneratorProgram, "hook", hook)
    walked(Automaton(GeneratorProgram(lambda: calls(200)), Values()), 10**6)


def test_so_are_the_responses_to_one_operation() -> None:
    values = Values()
    automaton = Automaton(GeneratorProgram(counts_in_memory), values)
    node = automaton.start.target
    assert node is not None
    for number in range(ENDLESS_RESPONSES - 1):
        assert automaton.next(node, values.number(number)).target is node
    with pytest.raises(UnkeyableError, match="counts_in_memory yields without end"):
        automaton.next(node, values.number(ENDLESS_RESPONSES))
