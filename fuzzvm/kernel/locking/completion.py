"""struct completion: CPUs that wait until others say that something is done (kernel/sched/completion.c, Linux 7.3).

The word counts how often it was said and not yet waited for; `x->wait.lock` makes each call one atomic step. Of several
that wait any one may go on, where the kernel takes them in the order in which they came. Nobody knows who will complete
it, so a wait that nobody ends is no-progress and no deadlock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from fuzzvm.kernel.locking.lock import Lock, Words
from fuzzvm.machine.ops import Load, Order, Rmw, Steps, Store

UNUSED = "not done"
UINT_MAX = (1 << 32) - 1
"""What the count is after complete_all(), whoever waits."""


class CompletionState(NamedTuple):
    """What the word holds: `x->done`."""

    done: int

    def in_words(self) -> str:
        """Return for how many it is done."""
        if not self.done:
            return UNUSED
        return f"done for {'all' if self.done == UINT_MAX else self.done}"


@dataclass(frozen=True, slots=True)
class Completion(Lock):
    """A completion. Its word holds 0, or a `CompletionState`."""


def done(value: object) -> int:
    """Return the count that the word holds; memory starts as 0."""
    return value.done if isinstance(value, CompletionState) else 0


@dataclass(frozen=True, slots=True)
class _Complete:
    all: bool = False

    def __call__(self, value: object) -> CompletionState:
        return CompletionState(UINT_MAX if self.all else min(done(value) + 1, UINT_MAX))


@dataclass(frozen=True, slots=True)
class _Consume:
    def __call__(self, value: object) -> CompletionState:
        count = done(value)
        return CompletionState(count if count in (0, UINT_MAX) else count - 1)


@dataclass(frozen=True, slots=True)
class _Done:
    ending: ClassVar[str] = " is done"
    may_sleep: ClassVar[bool] = True

    def __call__(self, value: object) -> bool:
        return done(value) > 0

    def blocked_by(self, value: object) -> tuple[int, ...]:
        return ()


_COMPLETE, _COMPLETE_ALL, _CONSUME, _DONE = _Complete(), _Complete(all=True), _Consume(), _Done()


def init_completion(words: Words, name: str) -> Completion:
    """Return a new completion, not done. For `attach`, whose `boot` makes words."""
    return Completion(words.lock_word(name, UNUSED), name)


def complete(cpu: int, x: Completion) -> Steps[None]:
    """Let one CPU go on that waits, or is going to."""
    yield Rmw(x.address, _COMPLETE, Order.RELEASE)


def complete_all(cpu: int, x: Completion) -> Steps[None]:
    """Let all go on that wait, and all that are going to, until reinit_completion()."""
    yield Rmw(x.address, _COMPLETE_ALL, Order.RELEASE)


def wait_for_completion(cpu: int, x: Completion) -> Steps[None]:
    """Wait until it is done, for one that waits or for all."""
    yield Rmw(x.address, _CONSUME, Order.ACQUIRE, _DONE)


def try_wait_for_completion(cpu: int, x: Completion) -> Steps[bool]:
    """Return whether it is done; a CPU that waits no more has taken its turn then."""
    old = yield Rmw(x.address, _CONSUME, Order.ACQUIRE)
    return done(old) > 0


def completion_done(cpu: int, x: Completion) -> Steps[bool]:
    """Return whether it is done, and leave it so."""
    value = yield Load(x.address, Order.ACQUIRE)
    return done(value) > 0


def reinit_completion(cpu: int, x: Completion) -> Steps[None]:
    """Make it not done again; the caller sees to it that nobody waits."""
    yield Store(x.address, CompletionState(0))
