"""One CPU's program as an automaton that grows as it is used.

A generator cannot be copied. Each local state keeps some that stand there, as long as there are any; where they have
moved on, the state is made anew by giving a fresh generator the responses that first led there.
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
from fuzzvm.machine.rewrite import Rewrite, Skipped

KEPT_GENERATORS = 4096
"""Generators kept at their local states, in all; those kept longest are dropped first."""
KEPT_AT_ONE = 4

_UNBOUND = object()


class Note(NamedTuple):
    """An annotation, and the functions that the CPU was in when it was yielded, innermost first."""

    annotation: Annotation
    stack: tuple[str, ...]


class _Running:
    """A generator that stands somewhere, and what is known of its frames from when it last stood still.

    A frame that delegates to the same generator as then has not run since, so its part of the key is the same.
    """

    __slots__ = ("chain", "generator", "parts")

    def __init__(self, generator: Steps[object]) -> None:
        self.generator = generator
        self.chain: list[Any] = []
        self.parts: list[int] = []


class Node:
    """A local state: `number` is dense from 0, and 0 is the program that has returned (`op` is None there).

    `op` is the operation that the program executes next, `stack` the functions that it is in, innermost first.
    `place` numbers where in the program it stands: local states of one place differ in the locals of inner frames.
    """

    __slots__ = ("edges", "kept", "number", "op", "origin", "place", "stack")

    def __init__(
        self, number: int, op: Operation | None, place: int, stack: tuple[str, ...], origin: tuple[Node, int] | None
    ) -> None:
        self.number = number
        self.place = place
        self.op = op
        self.stack = stack
        self.origin = origin
        self.kept: list[_Running] = []
        self.edges: dict[int, Edge] = {}


class Edge(NamedTuple):
    """What follows a response: annotations in order, then either the next local state, or the program's own error."""

    notes: tuple[Note, ...]
    target: Node | None
    error: ModelError | None = None
    stack: tuple[str, ...] = ()


class Automaton:
    """The automaton of one program; `program` returns it anew, at its beginning, each time.

    `live_only` keys local states by live variables alone; without it every local variable counts. `rewrite` is that of
    the machine.
    Raises UnkeyableError for local state that cannot be keyed, and ProgramError where the program is broken.
    """

    def __init__(
        self,
        program: Callable[[], Steps[object]],
        values: Values,
        *,
        live_only: bool = True,
        rewrite: Rewrite | None = None,
    ) -> None:
        self._program = program
        self._rewrite = rewrite
        self._values = values
        self._live_only = live_only
        self._numbers: dict[Hashable, Node] = {}
        self._kept: deque[tuple[Node, _Running]] = deque()
        self._parts: dict[Hashable, int] = {}
        self._places_of_parts: list[tuple[int, int]] = []
        self._places: dict[Hashable, int] = {None: 0}
        self.nodes = [Node(0, None, 0, (), None)]
        self.start = self._run(None, 0)

    def next(self, node: Node, response: int) -> Edge:
        """Return what the program does when its operation is answered by the value of that number."""
        edge = node.edges.get(response)
        if edge is None:
            edge = node.edges[response] = self._run(node, response)
        return edge

    def _run(self, node: Node | None, response: int) -> Edge:
        running = _Running(self._program()) if node is None else self._running_at(node)
        generator = running.generator
        answer = None if node is None else self._values[response]
        notes: list[Note] = []
        try:
            op = self._send(generator, answer)
            while isinstance(op, Annotation):
                notes.append(Note(op, _stack(generator)))
                op = self._send(generator, None)
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
        return Edge(tuple(notes), self._node(running, op, origin))

    def _node(self, running: _Running, op: Operation, origin: tuple[Node, int] | None) -> Node:
        generator = running.generator
        if not isinstance(op, Operation):
            raise not_an_operation(generator, op)
        try:
            # the operation was made before the yield, from locals that may be dead by now
            key_of_op = self._values.keys.of_temporary(op)
            parts = self._frames(running)
        except UnkeyableValueError as error:
            function, filename, line = _place(generator)
            raise UnkeyableError(f"{function}: the operation {op!r}: {error}", filename, line) from error
        key = (key_of_op, *parts)
        node = self._numbers.get(key)
        if node is None:
            where = (key_of_op, parts[0], *[self._places_of_parts[part] for part in parts])
            place = self._places.setdefault(where, len(self._places))
            node = Node(len(self.nodes), op, place, _stack(generator), origin)
            self.nodes.append(node)
            self._numbers[key] = node
        if len(node.kept) < KEPT_AT_ONE:
            node.kept.append(running)
            self._kept.append((node, running))
            if len(self._kept) > KEPT_GENERATORS:
                oldest, dropped = self._kept.popleft()
                if dropped in oldest.kept:
                    oldest.kept.remove(dropped)
        return node

    def _running_at(self, node: Node) -> _Running:
        if node.kept:
            return node.kept.pop()
        responses = []
        place = node
        while place.origin is not None:
            place, response = place.origin
            responses.append(response)
        generator = self._program()
        self._advance(generator, None)
        for response in reversed(responses):
            self._advance(generator, self._values[response])
        return _Running(generator)

    def _advance(self, generator: Steps[object], response: object) -> None:
        op = self._send(generator, response)
        while isinstance(op, Annotation):
            op = self._send(generator, None)

    def _send(self, generator: Steps[object], response: object) -> Operation | Annotation:
        op = generator.send(response)
        if self._rewrite is None:
            return op
        rewritten = self._rewrite(op, generator)
        while isinstance(rewritten, Skipped):
            rewritten = self._rewrite(generator.send(rewritten.response), generator)
        return rewritten

    def _frames(self, running: _Running) -> list[int]:
        """Return numbers for the frames of a generator, the outermost first: equal numbers, equal frames."""
        chain: list[Any] = []
        parts: list[int] = []
        old_chain, old_parts = running.chain, running.parts
        known = len(old_chain) - 1
        inner: Any = running.generator
        depth = 0
        while inner is not None:
            try:
                following = inner.gi_yieldfrom
            except AttributeError:
                function, filename, line = _place(running.generator)
                what = f"{function}: delegates to a {type(inner).__name__}, which is no generator"
                raise UnkeyableError(what, filename, line) from None
            if depth < known and old_chain[depth] is inner and old_chain[depth + 1] is following:
                parts.append(old_parts[depth])
            else:
                key = self._frame_key(inner.gi_frame)
                part = self._parts.setdefault(key, len(self._parts))
                if part == len(self._places_of_parts):
                    self._places_of_parts.append((key[0], key[1]))
                parts.append(part)
            chain.append(inner)
            inner = following
            depth += 1
        running.chain, running.parts = chain, parts
        return parts

    def _frame_key(self, frame: Any) -> tuple[Any, ...]:
        of = self._values.keys.of
        code = frame.f_code
        lasti = frame.f_lasti
        place = suspensions(code)
        place.check(lasti)
        values = frame.f_locals
        names = place.live[lasti] if self._live_only else (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
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
