"""How a replay on a real kernel ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Result(enum.Enum):
    """The three ways in which it ends."""

    REPRODUCED = "reproduced"
    DIVERGED = "diverged"
    NOT_REACHABLE = "not reachable"


@dataclass(frozen=True, slots=True)
class FailedLock:
    """A lock that a CPU did not get: the kernel's function that tried or waits, whose lock, and for whom."""

    function: str
    lock: str
    caller: str
    waits: bool

    def __str__(self) -> str:
        if self.waits:
            return f"{self.caller} waits for {self.lock} ({self.function})"
        return f"{self.function}(&{self.lock}) failed in {self.caller}"


@dataclass(slots=True)
class Outcome:
    """What came of it. `step` is the model's step that did not happen, 0 where all did.

    `report` is KASAN's, `backtrace` where the CPU was that did something else. `matched` counts steps that were seen
    to happen, `passed_over` those with no counterpart on a real kernel, `extra_reads` further reads of an entry that
    the model reads once. `seconds` is the time from the start of QEMU, `boot_seconds` that until the processes stood.
    """

    result: Result
    step: int = 0
    message: str = ""
    report: list[str] = field(default_factory=list)
    backtrace: list[str] = field(default_factory=list)
    locks: list[FailedLock] = field(default_factory=list)
    matched: int = 0
    passed_over: int = 0
    extra_reads: int = 0
    boot_seconds: float = 0.0
    seconds: float = 0.0
    console: list[str] = field(default_factory=list)
    """What the guest has printed. It is no part of the plain data."""
    script: list[str] = field(default_factory=list)
    """What the guest was told. Nor is this."""

    def to_data(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "result": self.result.value,
            "step": self.step or None,
            "message": self.message,
            "report": self.report,
            "backtrace": self.backtrace,
            "failed_locks": [str(lock) for lock in self.locks],
            "steps_matched": self.matched,
            "steps_passed_over": self.passed_over,
            "extra_reads": self.extra_reads,
            "boot_seconds": round(self.boot_seconds, 2),
            "seconds": round(self.seconds, 2),
        }
