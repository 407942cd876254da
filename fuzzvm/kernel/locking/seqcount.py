"""seqcount_t: readers that go on beside a writer, and find out afterwards that they must try again (seqlock.h, 7.3).

The count is odd while somebody writes. A reader waits until it is even, reads, and has read what belongs together if
the count is the same afterwards. Writers must be kept apart by something else: the count is read, and written, in two
steps. The word has the writer's CPU besides, which is what a reader waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from fuzzvm.kernel.locking.lock import Lock, Words
from fuzzvm.machine.ops import Await, Barrier, Fence, Load, Order, Steps, Store

UNUSED = "0, nobody writes"


class SeqcountState(NamedTuple):
    """What the word holds: the count, and who has made it odd; None where it is even."""

    sequence: int = 0
    writer: int | None = None

    def renamed(self, names: Sequence[int]) -> SeqcountState:
        """Return it after CPU `i` has become CPU `names[i]`."""
        return self if self.writer is None else SeqcountState(self.sequence, names[self.writer])

    def left(self, name: str) -> str:
        """Return that a write section has never ended, where that is so."""
        return f"a write section of {name} never ended" if self.sequence % 2 else ""

    def held_by(self, cpu: int) -> bool:
        """Return whether a CPU writes."""
        return cpu == self.writer

    def in_words(self) -> str:
        """Return the count and who writes."""
        return f"{self.sequence}, {'nobody' if self.writer is None else f'CPU {self.writer}'} writes"


@dataclass(frozen=True, slots=True)
class Seqcount(Lock):
    """A seqcount_t. Its word holds 0, or a `SeqcountState`."""


def seqcount_state(value: object) -> SeqcountState:
    """Return what the word holds; memory starts as 0."""
    return value if isinstance(value, SeqcountState) else SeqcountState()


@dataclass(frozen=True, slots=True)
class _Even:
    """Holds while nobody writes."""

    ending: ClassVar[str] = ": nobody writes"

    def __call__(self, value: object) -> bool:
        return seqcount_state(value).sequence % 2 == 0

    def blocked_by(self, value: object) -> tuple[int, ...]:
        writer = seqcount_state(value).writer
        return () if writer is None else (writer,)

    def why(self, value: object, blocker: int) -> str:
        """Return who writes."""
        return f"CPU {blocker} writes"


_EVEN = _Even()


def seqcount_init(words: Words, name: str) -> Seqcount:
    """Return a new seqcount_t whose count is 0. For `attach`, whose `boot` makes words."""
    return Seqcount(words.lock_word(name, UNUSED), name)


def read_seqcount_begin(cpu: int, s: Seqcount) -> Steps[int]:
    """Wait until nobody writes, which stands for the spinning; return the count for read_seqcount_retry()."""
    # smp_load_acquire(&s->sequence)
    value = yield Await(s.address, _EVEN, Order.ACQUIRE)
    return seqcount_state(value).sequence


def read_seqcount_retry(cpu: int, s: Seqcount, start: int) -> Steps[bool]:
    """Return whether somebody has written since read_seqcount_begin(): what was read may not belong together."""
    # smp_rmb()
    yield Fence(Barrier.DMB_ISHLD)
    value = yield Load(s.address)
    return seqcount_state(value).sequence != start


def write_seqcount_begin(cpu: int, s: Seqcount) -> Steps[None]:
    """Begin to write, with other writers kept away by the caller."""
    value = yield Load(s.address)
    yield Store(s.address, SeqcountState(seqcount_state(value).sequence + 1, cpu))
    # smp_wmb()
    yield Fence(Barrier.DMB_ISHST)


def write_seqcount_end(cpu: int, s: Seqcount) -> Steps[None]:
    """Have written."""
    # smp_wmb()
    yield Fence(Barrier.DMB_ISHST)
    value = yield Load(s.address)
    yield Store(s.address, SeqcountState(seqcount_state(value).sequence + 1))
