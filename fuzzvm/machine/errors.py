"""What can go wrong in a run, each with a stable kebab-case id that scripts and corpus files may rely on."""

from __future__ import annotations

from dataclasses import dataclass

USE_AFTER_FREE_READ = "use-after-free-read"
USE_AFTER_FREE_WRITE = "use-after-free-write"
REUSED_OBJECT = "use-after-free-reused"
DOUBLE_FREE = "double-free"
DEADLOCK = "deadlock"
NO_PROGRESS = "no-progress"


class ModelError(Exception):
    """The program did what no correct program does: the finding of a run.

    Raised by the machine, by observers, and by programs themselves (a kernel's BUG or WARN).
    """

    def __init__(self, error: str, message: str, *, address: int | None = None) -> None:
        super().__init__(f"{error}: {message}")
        self.error = error
        self.message = message
        self.address = address


class ScheduleError(Exception):
    """A schedule asks for what the machine cannot do at that point: an impossible choice, or one too many or few."""


class StoppedError(Exception):
    """A bound was reached, and what was under way has stopped; the message names it."""


class ProgramError(Exception):
    """A CPU's program raised an exception that is no `ModelError`, or yielded what is no operation.

    `filename` and `line` say where, so that the author of a mitigation is shown the own file, not fuzzvm's.
    """

    def __init__(self, message: str, filename: str, line: int) -> None:
        super().__init__(f"{filename}:{line}: {message}")
        self.message = message
        self.filename = filename
        self.line = line


class UnkeyableError(ProgramError):
    """A program's state cannot be told apart from others by its value; names the function and the variable."""


class OutdatedProgramError(ProgramError):
    """A program does what was assumed not to happen; the task has to begin again, with what is known by now."""

    def __init__(self) -> None:
        super().__init__("does what was assumed not to happen", "", 0)


class UnkeyableValueError(Exception):
    """A value has no key; the message says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A `ModelError` and where it happened.

    `cpu` is None where the run as a whole failed (deadlock, leak). `stack` names functions, innermost first.
    `object_number` is the object that was touched, if one was. `step` counts from 1.
    """

    error: str
    message: str
    cpu: int | None
    stack: tuple[str, ...]
    step: int
    object_number: int | None = None

    @property
    def function(self) -> str:
        """The function that failed, or '' where the run as a whole did."""
        return self.stack[0] if self.stack else ""
