"""A state space on disk: what its numbers stand for, so that they stand for the same in another process.

States of a search are integers (`space`). They are made of numbers of local states, of shared states, and those of
numbers of values, heaps and so on, each given in the order in which the search met things. All of these lists only
grow, so a checkpoint appends what is new in them. Automata are not written down but run again: for each local state
the file has the response that first led there, and the program of this process says what it does. So the file holds no
code. It has a digest of all that programs do and say in these local states; where a program does something else now,
that is an error, whatever module its code is in. What programs remember beside their state (the orders of locks) is
remembered again by running them.

Tables of steps are left out. They are worked out again, from the same numbers, as the search asks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from fuzzvm.exhaustive.checkpoint import numbers
from fuzzvm.exhaustive.checkpoint.errors import CheckpointError, DamagedError
from fuzzvm.exhaustive.checkpoint.plain import Plain
from fuzzvm.exhaustive.checkpoint.store import Store
from fuzzvm.exhaustive.flat import FlatShared
from fuzzvm.exhaustive.shared import Shared
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.stepped import SteppedShared
from fuzzvm.machine.allocator import Allocation, Allocator
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.ops import Barrier

GROWING = ("values", "slots", "heaps", "remembered", "masks", "pieces", "memories", "states")
"""The parts that are appended to."""
_WHOLE = ("automata", "assumed")


class SpaceLog:
    """Writes a space into a store, and remembers what is there already."""

    def __init__(self, store: Store, plain: Plain) -> None:
        self._store = store
        self._plain = plain
        self._shared: Shared | None = None
        """The shared states that the store has some of; another object has other numbers."""
        self._written: dict[str, int] = {}
        """Elements of each part that the store has."""
        self._pieces: dict[int, int] = {}
        self._kept: list[Any] = []
        """Parts of memories by their identity, and by their number."""
        self._memories: dict[int, int] = {}
        """The numbers that memories have in the store."""

    def forget(self) -> None:
        """Write all of it the next time."""
        self._shared = None

    def write(self, space: Space) -> None:
        """Write what is new. Raises CheckpointError for what cannot be written, FileError."""
        shared, store = space.shared, self._store
        if shared is not self._shared:
            for name in (*GROWING, *_WHOLE):
                store.drop(name)
            self._shared, self._written = shared, {}
            self._pieces, self._kept, self._memories = {}, [], {}
        plain = self._plain.data
        if isinstance(shared, FlatShared):
            self._append("slots", shared.slots, lambda address: address)
            self._append_states("states", shared.states, _flat_row)
        else:
            assert isinstance(shared, SteppedShared)
            assert space.memory_assumed is not None
            store.replace("assumed", numbers.text(_assumed_data(space, plain)))
            self._append("masks", shared.masks, lambda masks: [f"{mask:x}" for mask in masks])
            self._append_memories(space, shared)
            self._append_states("states", shared.states, self._stepped_row)
        self._append("heaps", shared.heaps, lambda heap: _heap_data(heap[0], heap[1], plain))
        self._append("remembered", shared.remembered, plain)
        # what came before may have given numbers to values, and to nothing else
        self._append("values", space.values.all, plain)
        store.replace("automata", numbers.text([_automaton_data(one, self._plain) for one in space.automata]))

    def _append(self, name: str, elements: list[Any], data: Any) -> None:
        done = self._written.get(name, 0)
        if len(elements) > done:
            self._store.append(name, numbers.text([data(one) for one in elements[done:]]))
            self._written[name] = len(elements)

    def _append_states(self, name: str, states: list[Any], row: Any) -> None:
        done = self._written.get(name, 0)
        if len(states) > done:
            self._store.append(name, numbers.small([number for state in states[done:] for number in row(state)]))
            self._written[name] = len(states)

    def _append_memories(self, space: Space, shared: SteppedShared) -> None:
        """Write the memories that states have, each once; those that were only passed through are left out."""
        number = space.values.number
        pieces: list[Any] = []
        model = shared.memories[0]

        def share(part: Any) -> int:
            known = self._pieces.get(id(part))
            if known is None:
                known = self._pieces[id(part)] = len(self._kept)
                self._kept.append(part)
                pieces.append(model.kept_part(part, number))
            return known

        new = []
        for memory, _, _, _ in shared.states[self._written.get("states", 0) :]:
            if memory not in self._memories:
                self._memories[memory] = len(self._memories)
                try:
                    new.append(shared.memories[memory].kept(share, number))
                except NotImplementedError as error:
                    raise CheckpointError(str(error)) from error
        for name, rows in (("pieces", pieces), ("memories", new)):
            if rows:
                self._store.append(name, numbers.text(rows))

    def _stepped_row(self, state: tuple[int, int, int, int]) -> tuple[int, ...]:
        return self._memories[state[0]], *state[1:]

    # Reading

    def restored(self, space: Space) -> None:
        """Let a space that nobody has searched be the one that was written. Raises CheckpointError."""
        try:
            self._restore(space)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
            raise DamagedError(f"the states are not those of a search: {error}") from error

    def _restore(self, space: Space) -> None:
        store, value_of = self._store, self._plain.value
        # what a space numbers by itself, it numbers first
        for number, data in enumerate(numbers.rows(store.chunks("values"))):
            if space.values.number(value_of(data)) != number:
                raise DamagedError("a value has another number")
        automata = numbers.of_text(store.read("automata"))
        for automaton, (origins, edges, does) in zip(space.automata, automata, strict=True):
            _run_again(automaton, origins, edges, len(space.values.all))
            if _does(automaton, self._plain) != does:
                raise CheckpointError("a program does something else now; begin the run again")
        shared = space.shared
        if isinstance(shared, FlatShared):
            slots = _counts(numbers.rows(store.chunks("slots")))
            _check(slots[: len(shared.slots)] == shared.slots)
            heaps, remembered = self._common()
            shared.restore(slots, heaps, remembered, _flat_states(store.read("states"), len(slots)))
        else:
            assert isinstance(shared, SteppedShared)
            space.restore_assumed(*_assumed_of(numbers.of_text(store.read("assumed")), value_of))
            shared = space.shared
            assert isinstance(shared, SteppedShared)
            self._restore_memories(space, shared)
        self._shared = space.shared
        self._written = {
            "slots": len(shared.slots) if isinstance(shared, FlatShared) else 0,
            "masks": len(shared.masks) if isinstance(shared, SteppedShared) else 0,
            "heaps": len(shared.heaps),
            "remembered": len(shared.remembered),
            "values": len(space.values.all),
            "states": len(shared.states),
        }

    def _common(self) -> tuple[list[tuple[Allocator, frozenset[int]]], list[Any]]:
        value_of = self._plain.value
        heaps = [_heap_of(data, value_of) for data in numbers.rows(self._store.chunks("heaps"))]
        return heaps, [value_of(data) for data in numbers.rows(self._store.chunks("remembered"))]

    def _restore_memories(self, space: Space, shared: SteppedShared) -> None:
        store, boot = self._store, shared.memories[0]
        value_at = space.values.all

        def value(number: Any) -> Any:
            _check(numbers.is_count(number))
            return value_at[number]

        self._kept = [boot.part_of(data, value) for data in numbers.rows(store.chunks("pieces"))]
        self._pieces = {id(part): number for number, part in enumerate(self._kept)}
        memories = [boot.of_kept(data, self._kept, value) for data in numbers.rows(store.chunks("memories"))]
        masks = [tuple(int(mask, 16) for mask in row) for row in numbers.rows(store.chunks("masks"))]
        rows = numbers.of_small(store.read("states"))
        _check(len(rows) % 4 == 0)
        states = list(zip(rows[0::4], rows[1::4], rows[2::4], rows[3::4], strict=True))
        heaps, remembered = self._common()
        live = shared.restore(memories, masks, heaps, remembered, states)
        self._memories = {number: place for place, number in enumerate(live)}


def _check(right: bool) -> None:
    if not right:
        raise DamagedError("numbers of a search do not go together")


def _counts(found: Iterable[Any]) -> list[int]:
    made = list(found)
    _check(all(map(numbers.is_count, made)))
    return made


def _flat_row(state: tuple[tuple[int, ...], int, int]) -> tuple[int, ...]:
    cells, heap, remembered = state
    return len(cells), heap, remembered, *cells


def _flat_states(data: bytes, slots: int) -> list[tuple[tuple[int, ...], int, int]]:
    rows = numbers.of_small(data).tolist()
    found = []
    at = 0
    while at < len(rows):
        count, heap, remembered = rows[at : at + 3]
        at += 3 + count
        _check(count <= slots and at <= len(rows))
        found.append((tuple(rows[at - count : at]), heap, remembered))
    return found


def _heap_data(allocator: Allocator, watched: frozenset[int], plain: Any) -> Any:
    objects, dead, owners, free = allocator.parts()
    rows = [[plain(one.label), one.size, one.frame, one.generation, one.allocated_at] for one in objects]
    return [rows, list(dead.items()), owners, free, sorted(watched)]


def _heap_of(data: Any, value_of: Any) -> tuple[Allocator, frozenset[int]]:
    rows, dead, owners, free, watched = data
    objects = [Allocation(number, value_of(label), *_counts(rest)) for number, (label, *rest) in enumerate(rows)]
    allocator = Allocator.of_parts(objects, dict(map(_pair, dead)), owners, free)
    return allocator, frozenset(_counts(watched))


def _pair(data: Any) -> tuple[int, int]:
    first, second = _counts(data)
    return first, second


def _automaton_data(automaton: Any, plain: Plain) -> Any:
    nodes = automaton.nodes[1:]
    origins = [None if node.origin is None else [node.origin[0].number, node.origin[1]] for node in nodes]
    return [origins, [list(node.edges) for node in nodes], _does(automaton, plain)]


def _does(automaton: Any, plain: Plain) -> str:
    """Return a digest of the operation of each local state, and of what is told, follows and fails on each edge."""
    digest = hashlib.blake2b(digest_size=32)
    for node in automaton.nodes[1:]:
        edges = [
            [
                response,
                [_said(note.annotation, plain) for note in edge.notes],
                None if edge.target is None else edge.target.number,
                str(edge.error),
            ]
            for response, edge in node.edges.items()
        ]
        digest.update(numbers.text([_said(node.op, plain), node.stack, edges]))
    return digest.hexdigest()


def _said(value: Any, plain: Plain) -> Any:
    """Return an operation as JSON data; of what a checkpoint cannot hold, such as a function, what it executes."""
    try:
        return plain.data(value)
    except CheckpointError:
        parts = [_said(getattr(value, field.name), plain) for field in fields(value)] if is_dataclass(value) else []
        code = getattr(value, "__code__", None)
        executes = [] if code is None else [code.co_code.hex(), list(code.co_names), code.co_firstlineno]
        return [f"{type(value).__module__}:{type(value).__qualname__}", *parts, *executes]


def _run_again(automaton: Any, origins: Any, edges: Any, values: int) -> None:
    """Let an automaton learn what it knew; local states and edges are in the order in which it learnt them."""
    nodes = automaton.nodes
    try:
        for number, origin in enumerate(origins, 1):
            if origin is not None:
                before, response = _counts(origin)
                _check(0 < before < number and response < values)
                automaton.next(nodes[before], response)
            _check(len(nodes) == number + 1)
        for number, responses in enumerate(edges, 1):
            node = nodes[number]
            _check(all(response < values for response in _counts(responses)))
            # in its order: what was learnt of it is counted from the first
            found = {response: automaton.next(node, response) for response in responses}
            _check(len(found) == len(node.edges))
            node.edges.clear()
            node.edges.update(found)
    except ProgramError as error:
        raise DamagedError(f"a program does not do what it did: {error}") from error
    _check(len(nodes) == len(edges) + 1)


def _assumed_data(space: Space, plain: Any) -> Any:
    bits, frozen = space.memory_assumed.kept()  # type: ignore[union-attr]
    named = [[what, plain(which) if isinstance(which, Barrier) else which] for what, which in bits]
    return [named, [[f"{mask:x}" for mask in places] for places in frozen]]


def _assumed_of(data: Any, value_of: Any) -> tuple[list[tuple[str, Any]], list[list[int]]]:
    named, frozen = data
    return [(what, value_of(which)) for what, which in named], [[int(mask, 16) for mask in places] for places in frozen]
