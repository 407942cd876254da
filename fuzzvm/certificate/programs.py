"""Programs that can be copied: each stands at a history, which is all the responses that it was given.

A generator cannot be copied. So it is run once for each history that some state has, and what it did is written down.
That the same responses give the same operations each time is all that is assumed of it here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from fuzzvm.certificate.keys import Keys
from fuzzvm.machine.blame import not_an_operation, program_error
from fuzzvm.machine.errors import ModelError, ProgramError
from fuzzvm.machine.ops import Annotation, Operation, Value
from fuzzvm.machine.program import MAX_ANNOTATIONS, NO_OPERATION, LocalState, Place, Program, endless
from fuzzvm.machine.program import Keys as ProgramKeys

ENDED = 0
"""The number of the local state of a program that has returned."""


class Said(NamedTuple):
    """What a program yielded, or raised; and the functions that it was in, innermost first."""

    what: Annotation | Operation | ModelError | StopIteration
    stack: tuple[str, ...]


class History:
    """A program after all the responses up to `response`. `said` is what it did then: annotations, and what ends them.

    `local` is the number of its local state, `op` the operation at which it stands, None where it has none.
    """

    __slots__ = ("after", "before", "local", "op", "place", "program", "response", "said")

    def __init__(self, before: History | None, response: Value, said: Sequence[Said], program: Program) -> None:
        self.before = before
        self.response = response
        self.said = said
        self.op = last if isinstance(last := said[-1].what, Operation) else None
        self.local = ENDED
        self.place = program.place() if self.op is not None else Place("", "", 0)
        self.program: Program | None = program
        """One that stands here, as long as it has not gone on."""
        self.after: dict[Hashable, History] = {}


class Histories:
    """All histories of one CPU's program. `met` is called with each new one."""

    def __init__(self, cpu: int, program: Program, keys: Keys, met: Callable[[History], None]) -> None:
        self._cpu = cpu
        self._program = program
        self._keys = keys
        self._met = met
        self._first: History | None = None

    def start(self) -> History:
        """Return the program at its first operation."""
        if self._first is None:
            program = self._program.fresh()
            self._first = self._new(None, None, program)
        return self._first

    def go_on(self, history: History, response: Value) -> History:
        """Return what follows a response. Raises ProgramError where the program is broken."""
        key = self._keys.of_value(response)
        found = history.after.get(key)
        if found is None:
            program = self._standing_at(history)
            history.program = None
            found = history.after[key] = self._new(history, response, program)
        return found

    def _new(self, before: History | None, response: Value, program: Program) -> History:
        history = History(before, response, _answer(program, response), program)
        if history.op is not None:
            local = program.local_state(self._keys)
            history.local = 1 + self._keys.number(("local", self._cpu, self._keys.of(history.op), local.key))
        self._met(history)
        return history

    def _standing_at(self, history: History) -> Program:
        """Return a program that has this history and is nobody else's."""
        if history.program is not None:
            return history.program
        way = []
        at: History | None = history
        while at is not None:
            way.append(at)
            at = at.before
        program = self._program.fresh()
        for one in reversed(way):
            said = _answer(program, one.response)
            if said[-1].stack != one.said[-1].stack or self._of(said) != self._of(one.said):
                place = program.place()
                raise ProgramError("does not do the same every time", place.filename, place.line)
        return program

    def _of(self, said: Sequence[Said]) -> Hashable:
        what = said[-1].what
        return self._keys.of(what) if isinstance(what, Operation) else type(what).__name__


def _answer(program: Program, response: Value) -> list[Said]:
    """Give a program a response; return what it does up to its next operation, or its end."""
    said: list[Said] = []
    try:
        what = program.send(response)
        while isinstance(what, Annotation):
            said.append(Said(what, program.stack()))
            if len(said) > MAX_ANNOTATIONS:
                raise endless(program, NO_OPERATION)
            what = program.send(None)
    except StopIteration:
        return [*said, Said(StopIteration(), ())]
    except ModelError as error:
        return [*said, Said(error.with_traceback(None), program.stack_of(error))]
    except BaseException as error:
        raise program_error(error) from error
    if not isinstance(what, Operation):
        raise not_an_operation(program, what)
    return [*said, Said(what, program.stack())]


class RecordedProgram(Program):
    """A program at a history, which a machine runs like any other."""

    __slots__ = ("_histories", "_next", "history")

    def __init__(self, histories: Histories, history: History | None = None, following: int = 0) -> None:
        self._histories = histories
        self.history = history
        self._next = following
        """Which of what it said comes next."""

    def fresh(self) -> RecordedProgram:
        return RecordedProgram(self._histories)

    def copy(self) -> RecordedProgram:
        return RecordedProgram(self._histories, self.history, self._next)

    def send(self, response: Value, /) -> Operation | Annotation:
        history = self.history
        if history is None:
            history = self.history = self._histories.start()
            self._next = 0
        elif self._next == len(history.said):
            history = self.history = self._histories.go_on(history, response)
            self._next = 0
        what = history.said[self._next].what
        self._next += 1
        if isinstance(what, ModelError):
            raise what.with_traceback(None)
        if isinstance(what, StopIteration):
            raise StopIteration
        return what

    def stack(self) -> tuple[str, ...]:
        return () if self.history is None else self.history.said[self._next - 1].stack

    def site(self) -> tuple[Hashable, int]:
        return self.place(), 0

    def place(self) -> Place:
        return Place("", "", 0) if self.history is None else self.history.place

    def local_state(self, keys: ProgramKeys) -> LocalState:
        local = ENDED if self.history is None else self.history.local
        return LocalState(local, local)
