"""One CPU's program as an automaton that grows as it is used.

A generator cannot be copied. Each local state keeps one that stands there, as long as there is one; where it has moved
on, the state is made anew by giving a fresh generator the responses that first led there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from fuzzvm.explore.automaton.keys import UnkeyableValueError, Values
from fuzzvm.explore.automaton.suspension import UnkeyableError, suspensions
from fuzzvm.machine.errors import ModelError, ProgramError
from fuzzvm.machine.machine import not_an_operation, program_error, stack_of
from fuzzvm.machine.ops import Annotation, Operation, Steps

LIVE_GENERATORS = 4096
"""Generators kept at their local states; those kept longest are dropped first."""

_UNBOUND = object()


class Note(NamedTuple):
    """An annotation, and the functions that the CPU was in when it was yielded, innermost first."""

    annotation: Annotation
    stack: tuple[str, ...]


class Node:
    """A local state: `number` is dense from 0, and 0 is the program that has returned (`op` is None there).

    `op` is the operation that the program executes next, `stack` the functions that it is in, innermost first.
    """

    __slots__ = ("edges", "generator", "number", "op", "origin", "stack")

    def __init__(
        self, number: int, op: Operation | None, stack: tuple[str, ...], origin: tuple[Node, int] | None
    ) -> None:
        self.number = number
        self.op = op
        self.stack = stack
        self.origin = origin
        self.generator: Steps[object] | None = None
        self.edges: dict[int, Edge] = {}


class Edge(NamedTuple):
    """What follows a response: annotations in order, then either the next local state, or the program's own error."""

    notes: tuple[Note, ...]
    target: Node | None
    error: ModelError | None = None
    stack: tuple[str, ...] = ()


class Automaton:
    """The automaton of one program; `program` returns it anew, at its beginning, each time.

    `live_only` keys local states by live variables alone; without it every local variable counts.
    Raises UnkeyableError for local state that cannot be keyed, and ProgramError where the program is broken.
    """

    def __init__(self, program: Callable[[], Steps[object]], values: Values, *, live_only: bool = True) -> None:
        self._program = program
        self._values = values
        self._live_only = live_only
        self._numbers: dict[Hashable, Node] = {}
        self._kept: deque[Node] = deque()
        self.nodes = [Node(0, None, (), None)]
        self.start = self._run(None, 0)

    def next(self, node: Node, response: int) -> Edge:
        """Return what the program does when its operation is answered by the value of that number."""
        edge = node.edges.get(response)
        if edge is None:
            edge = node.edges[response] = self._run(node, response)
        return edge

    def _run(self, node: Node | None, response: int) -> Edge:
        generator = self._program() if node is None else self._generator_at(node)
        notes: list[Note] = []
        try:
            op = generator.send(None if node is None else self._values[response])
            while isinstance(op, Annotation):
                notes.append(Note(op, _stack(generator)))
                op = generator.send(None)
        except StopIteration:
            return Edge(tuple(notes), self.nodes[0])
        except ModelError as error:
            stack = stack_of(error)
            # the traceback would keep every frame of the program alive
            return Edge(tuple(notes), None, error.with_traceback(None), stack)
        except ProgramError:
            raise
        except Exception as error:
            raise program_error(error) from error
        origin = None if node is None else (node, response)
        return Edge(tuple(notes), self._node(generator, op, origin))

    def _node(self, generator: Steps[object], op: Operation, origin: tuple[Node, int] | None) -> Node:
        if not isinstance(op, Operation):
            raise not_an_operation(generator, op)
        try:
            # the operation was made before the yield, from locals that may be dead by now
            key = (self._values.keys.of_temporary(op), self._frames_key(generator))
        except UnkeyableValueError as error:
            function, filename, line = _place(generator)
            raise UnkeyableError(f"{function}: the operation {op!r}: {error}", filename, line) from error
        node = self._numbers.get(key)
        if node is None:
            node = Node(len(self.nodes), op, _stack(generator), origin)
            self.nodes.append(node)
            self._numbers[key] = node
        if node.generator is None:
            node.generator = generator
            self._kept.append(node)
            if len(self._kept) > LIVE_GENERATORS:
                self._kept.popleft().generator = None
        return node

    def _generator_at(self, node: Node) -> Steps[object]:
        generator = node.generator
        if generator is not None:
            node.generator = None
            return generator
        responses = []
        place = node
        while place.origin is not None:
            place, response = place.origin
            responses.append(response)
        generator = self._program()
        _advance(generator, None)
        for response in reversed(responses):
            _advance(generator, self._values[response])
        return generator

    def _frames_key(self, generator: Steps[object]) -> Hashable:
        key: list[Hashable] = []
        of = self._values.keys.of
        inner: Any = generator
        while inner is not None:
            frame = getattr(inner, "gi_frame", None)
            if frame is None:
                function, filename, line = _place(generator)
                what = f"{function}: delegates to a {type(inner).__name__}, which is no generator"
                raise UnkeyableError(what, filename, line)
            code = frame.f_code
            place = suspensions(code)
            place.check(frame.f_lasti)
            values = frame.f_locals
            names = place.live[frame.f_lasti] if self._live_only else (*code.co_varnames, *code.co_freevars)
            key += (id(code), frame.f_lasti)
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
            inner = inner.gi_yieldfrom
        return tuple(key)


def _advance(generator: Steps[object], response: object) -> None:
    op = generator.send(response)
    while isinstance(op, Annotation):
        op = generator.send(None)


def _stack(generator: Steps[object]) -> tuple[str, ...]:
    names = []
    frame: Any = generator
    while frame is not None and hasattr(frame, "gi_code"):
        names.append(frame.gi_code.co_name)
        frame = frame.gi_yieldfrom
    return tuple(reversed(names))


def _place(generator: Steps[object]) -> tuple[str, str, int]:
    """Return function, file and line of the innermost place that a generator stands at."""
    frame: Any = generator
    while hasattr(frame.gi_yieldfrom, "gi_code"):
        frame = frame.gi_yieldfrom
    return frame.gi_code.co_qualname, frame.gi_code.co_filename, frame.gi_frame.f_lineno
