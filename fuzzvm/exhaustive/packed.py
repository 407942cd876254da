"""A search that goes on in compiled code: states packed into 64 bits, steps into a table of such.

The Python loop of `search` hands over what it has when a search gets large, and from there on `loop` visits states.
A step that its table does not have yet is computed here, by the shared state as ever, and the states that wait for it
are visited again. Fields are as wide as the numbers in them need, and widened when these grow.

Under sequential consistency, and without reductions: both cost more in compiled code than the states that they save,
see docs/decisions/0007. numpy and numba are the extra `fast`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from fuzzvm.exhaustive import loop
from fuzzvm.exhaustive.checkpoint.errors import DamagedError
from fuzzvm.exhaustive.checkpoint.kept import PACKED, Kept, Restored, states
from fuzzvm.exhaustive.checkpoint.numbers import AT_ONCE
from fuzzvm.exhaustive.flat import FlatShared
from fuzzvm.exhaustive.limits import CHECK_EVERY, Watch
from fuzzvm.exhaustive.loop import Words
from fuzzvm.exhaustive.seen import Seen
from fuzzvm.exhaustive.space import LOCAL_BITS, LOCAL_MASK, SHARED_BITS, Space, StateBoundError

WORD_BITS = 62
"""Bits of a state: with its sign, and one more for the free place, it fits a 64-bit integer."""
ROOM = 4096
"""Steps that the loop may ask for at once."""
FULLEST = 0.6
"""The part of a set or table that may be in use."""


class TooWideError(Exception):
    """States do not fit into a word any more."""


def _shared_states(space: Space) -> int:
    assert isinstance(space.shared, FlatShared)
    return len(space.shared)


class Packing:
    """Where the fields of a state lie in a word: the shared state's number in the low bits, then those of each CPU."""

    def __init__(self, space: Space) -> None:
        needed = [len(automaton.nodes).bit_length() for automaton in space.automata]
        shared = _shared_states(space).bit_length()
        spare = WORD_BITS - shared - sum(needed)
        if spare < 0:
            raise TooWideError
        # the number of shared states grows fastest
        for_each = spare // (len(needed) + 2)
        self.lay_out([bits + for_each for bits in needed])

    def lay_out(self, widths: list[int]) -> None:
        """Let the fields of CPUs be so wide; the shared state has the rest. Raises ValueError where none is left."""
        self.widths = widths
        self.shared_width = WORD_BITS - sum(widths)
        if self.shared_width <= 0:
            raise ValueError("states do not fit")
        self.shifts = [self.shared_width + sum(widths[:cpu]) for cpu in range(len(widths))]
        self.locals = [((1 << width) - 1) << shift for width, shift in zip(widths, self.shifts, strict=True)]

    def holds(self, space: Space, words: Words) -> bool:
        """Return whether all of these words are states of a space."""
        shared, locals_ = self.fields(words)
        known = [(shared, _shared_states(space))]
        known += [(some, len(one.nodes)) for some, one in zip(locals_, space.automata, strict=True)]
        return not words.size or bool(words.min() >= 0 and all(some.max() < count for some, count in known))

    def fits(self, space: Space) -> bool:
        """Return whether every number that there is now fits its field."""
        return _shared_states(space) >> self.shared_width == 0 and all(
            len(automaton.nodes) >> width == 0 for automaton, width in zip(space.automata, self.widths, strict=True)
        )

    def word(self, shared: Words, locals_: list[Words]) -> Words:
        """Return words with these fields."""
        word = shared.copy()
        for numbers, shift in zip(locals_, self.shifts, strict=True):
            word |= numbers << shift
        return word

    def fields(self, words: Words) -> tuple[Words, list[Words]]:
        """Return the fields of words; `word` takes them back."""
        locals_ = [words >> shift & (1 << width) - 1 for shift, width in zip(self.shifts, self.widths, strict=True)]
        return words & (1 << self.shared_width) - 1, locals_

    def pack(self, states: Iterable[int]) -> Words:
        """Return states of a space as words."""
        size = (SHARED_BITS + LOCAL_BITS * len(self.widths) + 7) // 8
        raw = np.frombuffer(b"".join([state.to_bytes(size, "little") for state in states]), np.uint8)
        octets = raw.reshape(-1, size).astype(np.int64)

        def field(at: int, bits: int) -> Words:
            value = np.zeros(len(octets), np.int64)
            for index in range(at // 8, (at + bits + 7) // 8):
                value |= octets[:, index] << 8 * index - at // 8 * 8
            return value >> at % 8 & (1 << bits) - 1

        locals_ = [field(SHARED_BITS + LOCAL_BITS * cpu, LOCAL_BITS) for cpu in range(len(self.widths))]
        return self.word(field(0, SHARED_BITS), locals_)

    def unpack(self, words: Words) -> list[int]:
        """Return words as states of a space."""
        shared, locals_ = self.fields(words)
        states: list[int] = shared.tolist()
        for cpu, numbers in enumerate(locals_):
            shift = SHARED_BITS + LOCAL_BITS * cpu
            states = [state | number << shift for state, number in zip(states, numbers.tolist(), strict=True)]
        return states


class PackedSearch:
    """What a search has seen so far, as arrays. Raises TooWideError where its states do not fit, MemoryError."""

    def __init__(self, space: Space, seen: Seen, watch: Watch, restored: Restored | None = None) -> None:
        self.space = self._space = space
        self._seen = seen
        self._watch = watch
        watch.search = self
        self._packing = Packing(space)
        self._counts = np.zeros(6, np.int64)
        self._asked = np.zeros(ROOM, np.int64)
        self._postponed = np.zeros(4 * ROOM, np.int64)
        self._ends = np.zeros(ROOM, np.int64)
        self._table = np.zeros((1 << 14, 2), np.int64)
        self._in_table = 0
        if restored is not None:
            self._restore(restored)
            return
        self._states = self._set_with(self._packing.pack(seen.visited), 2 * len(seen.visited))
        stack = self._packing.pack(seen.stack)
        self._stack = np.zeros(4 * stack.size + ROOM, np.int64)
        self._stack[: stack.size] = stack
        self._counts[loop.TOP] = stack.size
        self._counts[loop.STATES] = len(seen.visited)
        self._counts[loop.TRANSITIONS] = seen.transitions
        seen.visited.clear()
        seen.stack.clear()

    def kept(self) -> Kept:
        """Return what has been seen: what is left to do is on the stack, or waits for steps that were asked for."""
        counts, seen, packing = self._counts, self._seen, self._packing
        facts = {
            "kind": PACKED,
            "states": seen.states,
            "transitions": seen.transitions,
            "findings": [list(one) for one in seen.findings],
            "widths": [packing.widths],
            "room": self._stack.size,
        }
        table = self._table[self._table[:, 0] != 0]
        words = {
            "visited": self._visited(),
            "stack": self._stack[: counts[loop.TOP]],
            "asked": self._asked[: counts[loop.ASKED]],
            "postponed": self._postponed[: counts[loop.POSTPONED]],
            "keys": table[:, 0] - 1,
            "entries": table[:, 1],
        }
        columns = {name: _chunks(some) for name, some in words.items()}
        return Kept(facts, {**columns, "ends": states(seen.ends, self._space)})

    def _restore(self, restored: Restored) -> None:
        """Go on where a search was kept, in the same order. Raises DamagedError."""
        counts, packing = self._counts, self._packing
        found = {name: _words(restored.column(name)) for name in _COLUMNS}
        widths, room = restored.counts("widths"), restored.count("room")
        visited, stack, asked, postponed, keys, entries = found.values()
        plain = entries > loop.UNKNOWN
        if len(widths) != 1 or len(keys) != len(entries):
            raise DamagedError("fields of states are missing")
        packing.lay_out(widths[0])
        # a key that has no step differs from none by 0
        after = keys[plain] + entries[plain]
        if not (
            packing.fits(self._space)
            and all(packing.holds(self._space, words) for words in (visited, stack, asked, postponed, keys, after))
            and len(asked) <= self._asked.size
            and len(postponed) <= self._postponed.size
            and len(stack) < room <= 16 * (len(visited) + ROOM)
        ):
            raise DamagedError("states are none")
        self._states = self._set_with(visited, len(visited))
        # when the stack gets full decides when steps that were asked for are worked out, and so the order
        self._stack = np.zeros(room, np.int64)
        self._stack[: len(stack)] = stack
        self._asked[: len(asked)] = asked
        self._postponed[: len(postponed)] = postponed
        while len(keys) + ROOM > FULLEST * self._table.shape[0]:
            self._table = np.zeros((4 * self._table.shape[0], 2), np.int64)
        loop.set_all(self._table, keys, entries)
        self._in_table = int((entries != loop.UNKNOWN).sum())
        counts[loop.TOP], counts[loop.ASKED], counts[loop.POSTPONED] = len(stack), len(asked), len(postponed)
        counts[loop.STATES], counts[loop.TRANSITIONS] = len(visited), self._seen.transitions

    def run(self, *, first_only: bool) -> None:
        """Search to the end, or to the first error; what was found is in `seen` whichever way it ends.

        Raises StoppedError, StateBoundError and MemoryError as the Python loop does, and TooWideError with everything
        put back into `seen`, for that one to go on.
        """
        counts, seen = self._counts, self._seen
        try:
            while not (seen.findings and first_only):
                most = self._watch.next_look
                masks = self._packing.locals
                why = loop.visit(
                    self._states,
                    min(most, int(FULLEST * self._states.size) - len(masks)),
                    self._table,
                    np.array([mask | (1 << self._packing.shared_width) - 1 for mask in masks], np.int64),
                    np.array(masks, np.int64),
                    self._stack,
                    counts,
                    self._asked,
                    self._postponed,
                    self._ends,
                )
                seen.states, seen.transitions = int(counts[loop.STATES]), int(counts[loop.TRANSITIONS])
                self._take_ends()
                if seen.states >= most:
                    self._watch.look(seen.states)
                if why == loop.EMPTY and not counts[loop.POSTPONED]:
                    break
                if why != loop.LOOK:
                    self._take_unknown()
                self._make_room()
        except TooWideError:
            self._give_back()
            raise

    def _take_ends(self) -> None:
        words = self._ends[: self._counts[loop.ENDS]]
        self._counts[loop.ENDS] = 0
        for state in self._packing.unpack(words):
            self._seen.end(state, self._space.ended(state))

    def _take_unknown(self) -> None:
        """Put the steps that the loop asked for into the table, and the states that wait for them on the stack."""
        counts = self._counts
        shared, locals_ = self._packing.fields(self._asked[: counts[loop.ASKED]])
        self._push(self._postponed[: counts[loop.POSTPONED]])
        counts[loop.ASKED] = counts[loop.POSTPONED] = 0
        found = [
            # a key has the local state of its own CPU alone, which has not returned
            self._steps(cpu, shared[numbers != 0].tolist(), numbers[numbers != 0].tolist())
            for cpu, numbers in enumerate(locals_)
        ]
        if not self._packing.fits(self._space):
            self._repack()
        for cpu, steps in enumerate(found):
            self._learn(cpu, steps)

    def _steps(self, cpu: int, shared: list[int], locals_: list[int]) -> tuple[list[int], ...]:
        """Return what steps of a CPU depend on and lead to: shared and local states before and after, and a code.

        The code is 0, or what the table is to hold instead of the way from one to the other.
        """
        step, nodes = self._space.shared.step, self._space.automata[cpu].nodes
        shared_after, locals_after, codes = [], [], []
        for number, local in zip(shared, locals_, strict=True):
            after, local_after, code = number, local, loop.NO_STEP
            # sequential consistency takes no choices: a step is blocked, or has one outcome
            for _, after, node, _, finding in step(number, cpu, nodes[local]):
                if node is None:
                    assert finding is not None
                    # a state that was visited asked for this step
                    self._seen.findings[finding] = None
                    code = loop.FAILS
                else:
                    local_after = node.number
                    if after == number and local_after == local:
                        code = loop.STAYS
            shared_after.append(after)
            locals_after.append(local_after)
            codes.append(code)
        if len(nodes) > LOCAL_MASK + 1:
            raise StateBoundError(f"CPU {cpu} has more than {LOCAL_MASK} local states")
        return shared, locals_, shared_after, locals_after, codes

    def _learn(self, cpu: int, steps: tuple[list[int], ...]) -> None:
        """Put steps of a CPU into the table."""
        at = self._packing.shifts[cpu]
        shared, locals_, shared_after, locals_after, codes = (np.array(numbers, np.int64) for numbers in steps)
        keys = shared | locals_ << at
        loop.set_all(
            self._table, keys, np.where(codes == loop.NO_STEP, (shared_after | locals_after << at) - keys, codes)
        )
        self._in_table += keys.size
        if self._in_table + ROOM > FULLEST * self._table.shape[0]:
            used = self._table[self._table[:, 0] != 0]
            self._table = np.zeros((4 * self._table.shape[0], 2), np.int64)
            loop.set_all(self._table, used[:, 0] - 1, used[:, 1])

    def _push(self, words: Words) -> None:
        top = int(self._counts[loop.TOP])
        if top + words.size > self._stack.size:
            self._stack = np.resize(self._stack, 2 * (top + words.size))
        self._stack[top : top + words.size] = words
        self._counts[loop.TOP] += words.size

    def _make_room(self) -> None:
        if self._counts[loop.TOP] > self._stack.size // 2:
            self._stack = np.resize(self._stack, 2 * self._stack.size)
        count = int(self._counts[loop.STATES])
        if count + 2 * CHECK_EVERY > FULLEST * self._states.size:
            self._states = self._set_with(self._visited(), count)

    def _visited(self) -> Words:
        words: Words = self._states[self._states != 0] - 1
        return words

    def _set_with(self, words: Words, count: int) -> Words:
        """Return a set of these words with room for twice as many as `count`."""
        size = 1 << int(2 * max(count, CHECK_EVERY) / FULLEST).bit_length()
        self._watch.room(size * 8)
        states = np.zeros(size, np.int64)
        loop.add_all(states, words)
        return states

    def _repack(self) -> None:
        """Widen the fields. Raises TooWideError."""
        old, new = self._packing, Packing(self._space)

        def again(words: Words) -> Words:
            return new.word(*old.fields(words))

        self._states = self._set_with(again(self._visited()), int(self._counts[loop.STATES]))
        top = self._counts[loop.TOP]
        self._stack[:top] = again(self._stack[:top])
        used = self._table[self._table[:, 0] != 0]
        keys, values = used[:, 0] - 1, used[:, 1]
        plain = values > loop.UNKNOWN
        values[plain] = again(keys[plain] + values[plain]) - again(keys[plain])
        self._table = np.zeros_like(self._table)
        loop.set_all(self._table, again(keys), values)
        self._packing = new

    def _give_back(self) -> None:
        seen = self._seen
        seen.visited.update(self._packing.unpack(self._visited()))
        seen.stack.extend(self._packing.unpack(self._stack[: self._counts[loop.TOP]]))


_COLUMNS = ("visited", "stack", "asked", "postponed", "keys", "entries")


def _chunks(words: Words) -> Iterator[bytes]:
    for at in range(0, words.size, AT_ONCE):
        yield words[at : at + AT_ONCE].astype("<i8").tobytes()


def _words(chunks: Iterable[bytes]) -> Words:
    data = b"".join(chunks)
    if len(data) % 8:
        raise DamagedError("states are cut off")
    return np.frombuffer(data, "<i8").astype(np.int64)


def go_on(space: Space, seen: Seen, watch: Watch, *, first_only: bool, restored: Restored | None = None) -> bool:
    """Go on with a search; return whether that is done, or states do not fit and it is left to the Python loop.

    Raises as PackedSearch.run does.
    """
    try:
        PackedSearch(space, seen, watch, restored).run(first_only=first_only)
    except TooWideError:
        return False
    return True
