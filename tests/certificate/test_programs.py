"""fuzzvm.certificate.programs: a program is run once for each history, and can stand at each again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest

from fuzzvm.certificate.keys import Keys
from fuzzvm.certificate.programs import ENDED, Histories, History, RecordedProgram
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import Load, Steps, Store

WORD = 1 << 16


def counts(begun: Iterator[int]) -> Steps[None]:
    """Store a response, and end."""
    next(begun)
    seen = yield Load(WORD)
    yield Store(WORD, seen)


def changes(begun: Iterator[int]) -> Steps[None]:
    """Load from another location each time."""
    seen = yield Load(WORD + next(begun))
    yield Store(WORD, seen)


def histories(steps: Steps[None]) -> tuple[Histories, list[History]]:
    """Return the histories of a program, and those that were met."""
    met: list[History] = []
    return Histories(0, GeneratorProgram(partial(steps, count())), Keys(), met.append), met  # type: ignore[operator]


def test_copies_go_their_own_way() -> None:
    known, met = histories(counts)  # type: ignore[arg-type]
    program = RecordedProgram(known)
    assert program.send(None) == Load(WORD)
    other = program.copy()
    assert program.send(1) == Store(WORD, 1)
    assert other.send(2) == Store(WORD, 2)
    assert other.stack() == ("counts",)
    with pytest.raises(StopIteration):
        other.send(None)
    assert [history.local for history in met].count(ENDED) == 1
    again = RecordedProgram(known)
    again.send(None)
    assert again.send(True) == Store(WORD, True)
    assert len(met) == 5, "1 and True are two responses, and what was done before is not done again"


def test_a_program_that_does_something_else_is_refused() -> None:
    known, _ = histories(changes)  # type: ignore[arg-type]
    program = RecordedProgram(known)
    program.send(None)
    other = program.copy()
    program.send(1)
    with pytest.raises(ProgramError, match="does not do the same every time"):
        other.send(2)
