"""One CPU's program as an automaton that grows as it is used.

Most programs cannot be copied. Each local state keeps some that stand there, as long as there are any; where they have
moved on, the state is made anew by giving a fresh program the responses that first led there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from fuzzvm.exhaustive.automaton.keys import Values
from fuzzvm.machine.blame import bad_operation, executing_error, not_an_operation, program_error
from fuzzvm.machine.errors import ModelError, ProgramError, UnkeyableError, UnkeyableValueError
from fuzzvm.machine.ops import Annotation, Operation
from fuzzvm.machine.program import MAX_ANNOTATIONS, NO_OPERATION, Place, Program, endless
from fuzzvm.machine.wellformed import wrong_with
from fuzzvm.supervision import stopping, user_code

KEPT_PROGRAMS = 4096
"""Programs kept at their local states, in all; those kept longest are dropped first."""
KEPT_AT_ONE = 4


ENDLESS = 1 << 12
"""Operations on one way through a program after which it is seen whether a hook goes on for ever."""
ENDLESS_IN_HOOK = ENDLESS // 2
"""Operations that one call of a hook may yield: its local states are as many, and with those of other CPUs beside them
there are more states than anybody has time for.
"""
ENDLESS_RESPONSES = 1 << 12
"""Different responses to one operation of a hook, after which it goes on for ever: a counter in memory grows."""


class Note(NamedTuple):
    """An annotation, and the functions that the CPU was in when it was yielded, innermost first."""

    annotation: Annotation
    stack: tuple[str, ...]


class Node:
    """A local state: `number` is dense from 0, and 0 is the program that has returned (`op` is None there).

    `op` is the operation that the program executes next, `stack` the functions that it is in, innermost first.
    `place` numbers the operation and where in the code it is: local states of one place differ in variables alone.
    `site` is what `Program.site` gives there.
    `depth` counts the operations on the way that first led there.
    """

    __slots__ = ("depth", "edges", "kept", "number", "op", "origin", "place", "site", "stack")

    def __init__(
        self,
        number: int,
        op: Operation | None,
        place: int,
        stack: tuple[str, ...],
        origin: tuple[Node, int] | None,
        site: tuple[Hashable, int] = (None, 0),
    ) -> None:
        self.number = number
        self.place = place
        self.op = op
        self.stack = stack
        self.site = site
        self.origin = origin
        self.depth: int = 0 if origin is None else origin[0].depth + 1
        self.kept: list[Program] = []
        self.edges: dict[int, Edge] = {}


class Edge(NamedTuple):
    """What follows a response: annotations in order, then either the next local state, or the program's own error."""

    notes: tuple[Note, ...]
    target: Node | None
    error: ModelError | None = None
    stack: tuple[str, ...] = ()


class Automaton:
    """The automaton of one program.

    Raises UnkeyableError for local state that cannot be keyed, and ProgramError where the program is broken.
    """

    def __init__(self, program: Program, values: Values) -> None:
        self._program = program
        self._values = values
        self._numbers: dict[Hashable, Node] = {}
        self._kept: deque[tuple[Node, Program]] = deque()
        self._places: dict[Hashable, int] = {None: 0}
        self.nodes = [Node(0, None, 0, (), None)]
        self.start = self._run(None, 0)

    def next(self, node: Node, response: int) -> Edge:
        """Return what the program does when its operation is answered by the value of that number."""
        edge = node.edges.get(response)
        if edge is None:
            edge = node.edges[response] = self._run(node, response)
            if len(node.edges) == ENDLESS_RESPONSES:
                self._see_end(node, f"an operation of it has had {ENDLESS_RESPONSES} different responses")
        return edge

    def _run(self, node: Node | None, response: int) -> Edge:
        stopping.check()
        program = self._program.fresh() if node is None else self._standing_at(node)
        answer = None if node is None else self._values[response]
        notes: list[Note] = []
        try:
            op = program.send(answer)
            while isinstance(op, Annotation):
                notes.append(Note(op, program.stack()))
                if len(notes) > MAX_ANNOTATIONS:
                    raise endless(program, NO_OPERATION)
                op = program.send(None)
        except StopIteration:
            return Edge(tuple(notes), self.nodes[0])
        except ModelError as error:
            stack = program.stack_of(error)
            # the traceback would keep every frame of the program alive
            return Edge(tuple(notes), None, error.with_traceback(None), stack)
        except BaseException as error:
            raise program_error(error) from error
        origin = None if node is None else (node, response)
        return Edge(tuple(notes), self._node(program, op, origin))

    def _node(self, program: Program, op: Operation, origin: tuple[Node, int] | None) -> Node:
        if not isinstance(op, Operation):
            raise not_an_operation(program, op)
        keys = self._values.keys
        try:
            # the operation was made before the program stopped, from variables that may be dead by now
            key_of_op = keys.of_temporary(op)
        except UnkeyableValueError as error:
            function, filename, line = program.place()
            what = f"{function}: the operation {user_code.shown(op)}: {error}"
            raise UnkeyableError(what, filename, line) from error
        local = program.local_state(keys)
        key = (key_of_op, local.key)
        node = self._numbers.get(key)
        if node is None:
            if wrong := wrong_with(op):
                raise bad_operation(program, op, wrong)
            place = self._places.setdefault((key_of_op, local.location), len(self._places))
            node = Node(len(self.nodes), op, place, program.stack(), origin, program.site())
            self.nodes.append(node)
            self._numbers[key] = node
            # seldom, as it takes as long as all that led there
            if node.depth >= ENDLESS and node.depth & (node.depth - 1) == 0:
                self._see_end(node, f"more than {ENDLESS_IN_HOOK} operations in one call")
        if len(node.kept) < KEPT_AT_ONE:
            node.kept.append(program)
            self._kept.append((node, program))
            if len(self._kept) > KEPT_PROGRAMS:
                oldest, dropped = self._kept.popleft()
                if dropped in oldest.kept:
                    oldest.kept.remove(dropped)
        return node

    def place_of(self, node: Node) -> Place:
        """Return where in its source the program stands at a local state. Not for where it is asked often."""
        return self._standing_at(node).place()

    def bad_operation(self, node: Node, wrong: str) -> ProgramError:
        """Return what to raise where the operation of a local state cannot be executed: it names its place."""
        return bad_operation(self._standing_at(node), node.op, wrong)

    def executing_error(self, node: Node, error: BaseException) -> BaseException:
        """Return what to raise in the place of what came of executing the operation of a local state."""
        return executing_error(self._standing_at(node), node.op, error)

    def _see_end(self, node: Node, what: str) -> None:
        """Raise UnkeyableError where most of the way to a local state was in one call of a hook of the user's."""
        program = self._program.fresh()
        self._advance(program, None)
        hook, yielded = program.hook(), 0
        for response in self._way_to(node):
            self._advance(program, self._values[response])
            before, hook = hook, program.hook()
            same = before is not None and hook is not None and hook.code is before.code
            yielded = yielded + 1 if same else 0
        if hook is not None and (yielded >= ENDLESS_IN_HOOK or len(node.edges) >= ENDLESS_RESPONSES):
            error = endless(program, what)
            # a run may go on for as long as it likes, but its local states cannot be told
            raise UnkeyableError(error.message, error.filename, error.line)

    def _way_to(self, node: Node) -> list[int]:
        """Return the responses that first led to a local state."""
        responses = []
        while node.origin is not None:
            node, response = node.origin
            responses.append(response)
        return responses[::-1]

    def _standing_at(self, node: Node) -> Program:
        """Return a program that stands at a local state and is nobody else's."""
        if node.kept:
            program = node.kept[-1].copy()
            return node.kept.pop() if program is None else program
        program = self._program.fresh()
        self._advance(program, None)
        for response in self._way_to(node):
            self._advance(program, self._values[response])
        return program

    def _advance(self, program: Program, response: object) -> None:
        op = program.send(response)
        while isinstance(op, Annotation):
            op = program.send(None)
