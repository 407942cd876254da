"""Programs that are generators: a `yield` hands over an operation and takes its response.

All that a generator will ever do follows from its chain of frames: for each its code, where it stands in that, and its
local variables.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Hashable, Iterator
from itertools import dropwhile
from types import CodeType
from typing import Any

from fuzzvm.machine.errors import UnkeyableError, UnkeyableValueError
from fuzzvm.machine.ops import Annotation, Operation, Steps, Value
from fuzzvm.machine.program import (
    MAX_ANNOTATIONS,
    NO_OPERATION,
    Hook,
    Keys,
    LocalState,
    Place,
    Program,
    endless,
)
from fuzzvm.machine.rewrite import Rewrite, Skipped
from fuzzvm.machine.suspension import suspensions
from fuzzvm.supervision import user_code

_UNBOUND = object()


class GeneratorProgram(Program):
    """A generator; `make` returns it anew, at its beginning, each time. `rewrite` is applied to all that it yields."""

    __slots__ = ("_chain", "_generator", "_make", "_parts", "_rewrite", "send")

    send: Callable[[Value], Operation | Annotation]

    def __init__(self, make: Callable[[], Steps[object]], rewrite: Rewrite | None = None) -> None:
        self._make = make
        self._rewrite = rewrite
        self._generator = make()
        # the generator's own, where it can be: the loop that runs programs calls nothing else
        self.send = self._generator.send if rewrite is None else self._send_rewritten
        self._chain: list[Any] = []
        self._parts: list[int] = []

    def fresh(self) -> GeneratorProgram:
        return GeneratorProgram(self._make, self._rewrite)

    def _send_rewritten(self, response: Value) -> Operation | Annotation:
        generator, rewrite = self._generator, self._rewrite
        assert rewrite is not None
        op = rewrite(generator.send(response))
        skipped = 0
        while isinstance(op, Skipped):
            skipped += 1
            if skipped > MAX_ANNOTATIONS:
                raise endless(self, NO_OPERATION)
            op = rewrite(generator.send(op.response))
        return op

    def stack(self) -> tuple[str, ...]:
        return functions(self._generator)

    def stack_of(self, error: Exception) -> tuple[str, ...]:
        codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        # what runs a program is no generator, and the program's outermost function is one
        of_program = dropwhile(lambda code: not code.co_flags & inspect.CO_GENERATOR, codes)
        return tuple(reversed([code.co_name for code in of_program]))

    def frames(self) -> list[tuple[CodeType, int]]:
        """Return the code of each function that it is in, the outermost first, and the line where that stands."""
        return [(inner.gi_code, _line(inner)) for inner in _chain(self._generator)]

    def hook(self) -> Hook | None:
        chain = [inner for inner in _chain(self._generator) if user_code.is_users(inner.gi_code.co_filename)]
        if not chain:
            return None
        code = chain[-1].gi_code
        place = Place(code.co_qualname, code.co_filename, _line(chain[-1]))
        return Hook(chain[0], chain[0].gi_code.co_name, place)

    def variables(self) -> object:
        return [(inner.gi_frame.f_lasti, dict(inner.gi_frame.f_locals)) for inner in _chain(self._generator)]

    def site(self) -> tuple[Hashable, int]:
        frame = innermost(self._generator)
        return frame.gi_code, frame.gi_frame.f_lasti

    def place(self) -> Place:
        inner = innermost(self._generator)
        return Place(inner.gi_code.co_qualname, inner.gi_code.co_filename, _line(inner))

    def local_state(self, keys: Keys) -> LocalState:
        """Return the parts of the frames, the outermost first.

        A frame that delegates to the same generator as when this was last asked has not run since, so its part is the
        same.
        """
        chain: list[Any] = []
        parts: list[int] = []
        old_chain, old_parts = self._chain, self._parts
        known = len(old_chain) - 1
        inner: Any = self._generator
        depth = 0
        while inner is not None:
            try:
                following = inner.gi_yieldfrom
            except AttributeError:
                place = self.place()
                what = f"{place.function}: delegates to a {type(inner).__name__}, which is no generator"
                raise UnkeyableError(what, place.filename, place.line) from None
            if depth < known and old_chain[depth] is inner and old_chain[depth + 1] is following:
                parts.append(old_parts[depth])
            else:
                key = _frame_key(inner.gi_frame, keys)
                parts.append(keys.part(key[:2], key))
            chain.append(inner)
            inner = following
            depth += 1
        self._chain, self._parts = chain, parts
        return LocalState((parts[0], *[keys.location(part) for part in parts]), tuple(parts))


def as_program(code: Program | Steps[object]) -> Program:
    """Return a program as it is, and a generator as a program that cannot begin anew."""
    return code if isinstance(code, Program) else GeneratorProgram(lambda: code)


def innermost(generator: Steps[Any]) -> Any:
    """Return the generator that a suspended generator stands in."""
    frame: Any = generator
    while hasattr(inner := frame.gi_yieldfrom, "gi_code"):
        frame = inner
    return frame


def functions(generator: Steps[Any]) -> tuple[str, ...]:
    """Return the names of the functions that a suspended generator is in, innermost first."""
    return tuple([inner.gi_code.co_name for inner in _chain(generator)][::-1])


def _chain(generator: Steps[Any]) -> Iterator[Any]:
    """Yield the generators that a suspended generator is in, outermost first."""
    inner: Any = generator
    # a hook may `yield from` a plain iterator, which is no frame
    while hasattr(inner, "gi_code"):
        yield inner
        inner = inner.gi_yieldfrom


def _line(generator: Any) -> int:
    """Return the line where a generator stands; 0 for one that has ended."""
    return 0 if generator.gi_frame is None else generator.gi_frame.f_lineno


def _frame_key(frame: Any, keys: Keys) -> tuple[Any, ...]:
    """Return the identity of a frame's code, where it stands, and the keys of its variables."""
    of = keys.of
    code = frame.f_code
    lasti = frame.f_lasti
    suspended = suspensions(code)
    suspended.check(lasti)
    values = frame.f_locals
    names = suspended.live[lasti] if keys.live_only else (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
    key: list[Any] = [id(code), lasti]
    for name in names:
        value = values.get(name, _UNBOUND)
        if type(value) is int or value is _UNBOUND:
            key.append(value)
            continue
        try:
            key.append(of(value))
        except UnkeyableValueError as error:
            message = f"{code.co_qualname}: variable {name!r}: {error}"
            raise UnkeyableError(message, code.co_filename, frame.f_lineno) from error
    return tuple(key)
