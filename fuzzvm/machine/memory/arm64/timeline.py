"""The timeline: every store and cache maintenance operation of a run, in the one order that all CPUs agree on.

AArch64 is other-multi-copy-atomic: a store that another CPU can see is seen by all. Executions are therefore linear
extensions of the architecture's ordered-before relation (Arm ARM B2.3; aarch64.cat), and it is enough to write down
the order of what others can observe: stores, DC, IC, and the DSB that completes an IC. Loads and instruction fetches
are not on the timeline; views (see `views`) say where on it they may take place.

A message's timestamp is its position, counted from 1; timestamp 0 stands for the initial contents.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

STORE = 0
CLEAN = 1
"""DC CVAU has made stores before it visible to instruction caches that are filled after it."""
INVALIDATE = 2
"""IC IVAU: a fetch after it misses the instruction cache. `address` is None for IC IALLU."""
COMPLETE = 3
"""A DSB waited for INVALIDATE messages of its CPU, whose timestamps are in `value`, to be done on all CPUs."""


class Message(NamedTuple):
    """One entry. `address` is a location; `value` is what a STORE writes, see the kinds above for the others."""

    kind: int
    cpu: int
    address: Hashable
    value: Hashable


class Timeline:
    """A list of messages over initial contents (0 where none are given). Immutable."""

    __slots__ = ("_locations", "_maintenance", "_stores", "initial", "messages", "shape")

    def __init__(self, initial: Mapping[Hashable, Hashable]) -> None:
        self.initial = initial
        self.messages: tuple[Message, ...] = ()
        self._stores: dict[Hashable, tuple[int, ...]] = {}
        self._maintenance: tuple[tuple[int, Message], ...] = ()
        self.shape: Timeline | None = None
        """The one that stands for all timelines which differ from it in values alone, where a search has told it."""
        self._locations: tuple[tuple[Hashable, tuple[int, ...]], ...] | None = None

    def __len__(self) -> int:
        return len(self.messages)

    @classmethod
    def of(cls, initial: Mapping[Hashable, Hashable], messages: Sequence[Message]) -> Timeline:
        """Return the timeline of these messages."""
        made = cls(initial)
        made.messages = tuple(messages)
        stores: dict[Hashable, tuple[int, ...]] = {}
        for timestamp, message in enumerate(made.messages, 1):
            if message.kind == STORE:
                stores[message.address] = (*stores.get(message.address, ()), timestamp)
            else:
                made._maintenance = (*made._maintenance, (timestamp, message))
        made._stores = stores
        return made

    def copy(self) -> Timeline:
        """Return an equal timeline that goes its own way."""
        other = Timeline.__new__(Timeline)
        other.initial = self.initial
        other.messages = self.messages
        other._stores = self._stores
        other._maintenance = self._maintenance
        other._locations = None
        other.shape = None
        return other

    def key(self, key_of: Callable[[Hashable], Hashable]) -> Hashable:
        """Return a value that is equal for equal timelines, with `key_of(value)` for values."""
        messages = [
            (kind, address, key_of(value) if kind == STORE else value) for kind, _, address, value in self.messages
        ]
        # a location that holds 0 is as good as one never written
        initial = frozenset([(address, key_of(value)) for address, value in self.initial.items() if value != 0])
        return initial, tuple(messages)

    def shape_key(self) -> Hashable:
        """Return a value that is equal for timelines which differ in values alone."""
        return tuple(
            [(kind, address, value if kind == COMPLETE else None) for kind, _, address, value in self.messages]
        )

    def extend(self, message: Message) -> Timeline:
        """Return the timeline with one message more."""
        other = self.copy()
        other.messages = (*self.messages, message)
        timestamp = len(other.messages)
        if message.kind == STORE:
            other._stores = dict(self._stores)
            other._stores[message.address] = (*self._stores.get(message.address, ()), timestamp)
        else:
            other._maintenance = (*self._maintenance, (timestamp, message))
        return other

    def stores(self, address: Hashable) -> tuple[int, ...]:
        """Return the timestamps of the stores to a location, ascending; the initial contents are not among them."""
        return self._stores.get(address, ())

    def locations(self) -> tuple[tuple[Hashable, tuple[int, ...]], ...]:
        """Return each location that messages name, with the timestamps of its stores, ascending."""
        if self._locations is None:
            maintained = {message.address: () for _, message in self._maintenance if message.address is not None}
            self._locations = tuple({**maintained, **self._stores}.items())
        return self._locations

    def value(self, address: Hashable, timestamp: int) -> Hashable:
        """Return what a location held right after its store at `timestamp` (0: initially)."""
        return self.messages[timestamp - 1].value if timestamp else self.initial.get(address, 0)

    def latest(self, address: Hashable) -> Hashable:
        """Return a location's value after all stores."""
        stores = self._stores.get(address)
        return self.messages[stores[-1] - 1].value if stores else self.initial.get(address, 0)

    def contents(self) -> dict[Hashable, Hashable]:
        """Return the value of every location after all stores; locations that are not in it hold 0."""
        return {**self.initial, **{address: self.latest(address) for address in self._stores}}

    def invalidations(self, address: Hashable) -> list[tuple[int, int]]:
        """Return (timestamp, timestamp of its completion) of each completed IC of a location."""
        done: dict[int, int] = {}
        for timestamp, message in self._maintenance:
            if message.kind == COMPLETE:
                assert isinstance(message.value, tuple)
                for invalidation in message.value:
                    done[invalidation] = timestamp
        return [
            (at, complete) for at, complete in sorted(done.items()) if self.messages[at - 1].address in (address, None)
        ]

    def cleans(self, address: Hashable) -> list[int]:
        """Return the timestamps of the DC operations on a location, ascending."""
        return [at for at, message in self._maintenance if message.kind == CLEAN and message.address == address]

    def atomic(self, address: Hashable, read: int, write: int) -> bool:
        """Return whether no store lies between the two halves of a read-modify-write (aarch64.cat `atomic`)."""
        return not any(read < store < write for store in self._stores.get(address, ()))
