"""What a campaign knows of where its tasks are run: this page and no more.

A task is any picklable object, and its result as well. `local` runs them in processes of this machine; another executor
needs the same four members and nothing of the rest of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Done(Generic[Result_co]):
    """A task has been run."""

    key: int
    result: Result_co


@dataclass(frozen=True, slots=True)
class Died:
    """What ran a task has died, and the task with it. `how` is a few words: the signal, or where it stood.

    `by_others` says that it was ended from outside, for all that is known: the task need not be what it died of.
    `by_user_code` says that user code has ended it, or does not come to an end; `how` says where, if that is known.
    """

    key: int
    how: str
    by_others: bool = False
    by_user_code: bool = False


class Executor(Protocol[Task_contra, Result_co]):
    """Runs tasks somewhere. A task is run once; whoever submits it decides whether to try again after `Died`."""

    @property
    def room(self) -> int:
        """How many tasks more it can take at present."""

    def submit(self, key: int, task: Task_contra) -> None:
        """Have a task run. `key` is the caller's, unlike that of any other task that has not been reported yet."""

    def wait(self, seconds: float) -> Sequence[Done[Result_co] | Died]:
        """Return what has come since the last call; waits up to that long for the first."""

    def close(self, seconds: float) -> Sequence[Done[Result_co] | Died]:
        """Begin no task more, give those that run that long to end, then end them; return what came until then.

        With 0 all ends at once. It may be called again, also from a signal handler.
        """
