"""The plain stress that the kernel's commits speak of: promotions on one CPU, dumps on the other, and luck."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.guest import BOOT_SECONDS, Guest

SMALL, HUGE = 32 << 20, 8 << 20
"""Bytes mapped page by page, then by blocks: the first must cover the second's range, or nothing is promoted."""


@dataclass(frozen=True, slots=True)
class StressOutcome:
    """What came of one run: seconds from the start of the stress to KASAN's first report, None where none came."""

    seconds: float | None
    boot_seconds: float
    report: list[str] = field(default_factory=list)

    def to_data(self) -> dict[str, object]:
        """Return it as plain data."""
        return {"seconds_to_report": self.seconds, "boot_seconds": self.boot_seconds, "report": self.report}


def script() -> list[str]:
    """Return what the guest's program is told."""
    return [
        f"loop 0 vmalloc 0 {SMALL:#x}",
        "loop 0 vfree 0",
        "loop 0 vm_unmap_aliases",
        f"loop 0 vmalloc_huge 0 {HUGE:#x}",
        "loop 0 vfree 0",
        "loop 0 vm_unmap_aliases",
        "loop 1 cat",
        "run",
    ]


def stress(kernel: BuiltKernel, seconds: float, *, binary: str | None = None) -> StressOutcome:
    """Boot, and stress for so many seconds or until KASAN reports. Raises RealKernelError where it does not boot."""
    began = time.monotonic()
    with Guest(kernel, script(), 2, binary=binary) as guest:
        guest.wait("running", BOOT_SECONDS)
        running = time.monotonic()
        printed = len(guest.qemu.lines())
        while time.monotonic() - running < seconds:
            guest.alive()
            report = guest.report(printed)
            if report:
                return StressOutcome(round(time.monotonic() - running, 2), round(running - began, 2), report)
            time.sleep(0.05)
        return StressOutcome(None, round(running - began, 2))
