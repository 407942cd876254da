"""A model small enough to be written for every peer: slots that hold tables, a promoter, and walkers.

Each slot of a flat table begins with a table of its own. The promoter takes the slots in turn: it reads the entry,
clears it, flushes, frees the table, and sets a huge entry. A walker takes the lock for writing, reads each entry, and
reads through it where there is a table. That is the race of the shipped model with all else left out: no levels, one
patched site, a lock with no queue. tests/bench/ checks that the verdicts are those of the shipped mitigations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Barrier, Fence, Fetch, Free, Load, Order, Rmw, Steps, Store
from fuzzvm.machine.task import Task

SCHEMES = {"none": 0, "static-key": 1, "static-key-enable": 2}
"""The schemes of the flat model, each with its number in the Promela text; named as the shipped ones are."""

NONE, TABLE, HUGE = 0, 1, 2
"""What a slot holds."""


@dataclass(frozen=True, slots=True)
class Add:
    """Add a number."""

    amount: int

    def __call__(self, old: int) -> int:
        return old + self.amount


@dataclass(frozen=True, slots=True)
class Unwritten:
    """No writer holds the lock."""

    def __call__(self, lock: int) -> bool:
        return lock >= 0

    def blocked_by(self, lock: int) -> tuple[int, ...]:
        # the word does not say who holds it
        return ()


@dataclass(frozen=True, slots=True)
class Unlocked:
    """Nobody holds the lock."""

    def __call__(self, lock: int) -> bool:
        return lock == 0

    def blocked_by(self, lock: int) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Words:
    """Where the model keeps what: `lock` is -1 for a writer, else the number of readers; `site` is 0 for a NOP."""

    slots: Address
    tables: tuple[Address, ...]
    lock: Address
    site: Address


def promoter(words: Words, scheme: str) -> Steps[None]:
    """Replace each table by a huge entry, and free it."""
    slot = 0
    while slot < len(words.tables):
        yield Load(words.slots + slot)
        yield Store(words.slots + slot, NONE)
        yield Fence(Barrier.DSB_ISH)
        if scheme != "none":
            taken = yield Fetch(words.site)
            if taken:
                yield Rmw(words.lock, Add(1), Order.ACQUIRE, Unwritten())
                yield Rmw(words.lock, Add(-1), Order.RELEASE)
        yield Free(words.tables[slot])
        yield Store(words.slots + slot, HUGE)
        slot += 1


def walker(words: Words, scheme: str) -> Steps[None]:
    """Read every entry, and the table that it points to, with the lock held and the key on."""
    if scheme == "static-key":
        yield Rmw(words.site, Add(1))
    elif scheme == "static-key-enable":
        yield Store(words.site, 1)
    yield Rmw(words.lock, Add(-1), Order.ACQUIRE, Unlocked())
    slot = 0
    while slot < len(words.tables):
        entry = yield Load(words.slots + slot)
        if entry == TABLE:
            yield Load(words.tables[slot])
        slot += 1
    yield Rmw(words.lock, Add(1), Order.RELEASE)
    if scheme == "static-key":
        yield Rmw(words.site, Add(-1))
    elif scheme == "static-key-enable":
        yield Store(words.site, 0)


class FlatTask(Task):
    """The flat model as a task: what every strategy and the exhaustive search can run.

    Raises KeyError for a scheme that there is not.
    """

    def __init__(self, slots: int, walkers: int = 1, scheme: str = "static-key", memory: str = "sc") -> None:
        if scheme not in SCHEMES:
            raise KeyError(scheme)
        machine = Machine(memory_models.get(memory)(1 + walkers))
        tables = tuple(machine.allocate(1, f"table {slot}") for slot in range(slots))
        words = Words(
            machine.allocate(slots, "slots"), tables, machine.allocate(1, "lock"), machine.allocate(1, "site")
        )
        machine.boot(_fill(words))
        self.words = words
        self.scheme = scheme
        programs = [partial(promoter, words, scheme), *[partial(walker, words, scheme)] * walkers]
        super().__init__(machine, list(map(GeneratorProgram, programs)), alike=[range(1, 1 + walkers)])


def _fill(words: Words) -> Steps[None]:
    for slot in range(len(words.tables)):
        yield Store(words.slots + slot, TABLE)
