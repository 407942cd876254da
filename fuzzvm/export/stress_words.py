"""The comment at the head of an exported stress program: what it reproduces, how it is run, what is to be expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.compiled import errors as compiled_errors
from fuzzvm.export.errors import ExportError
from fuzzvm.kernel import errors as kernel_errors
from fuzzvm.machine import errors as machine_errors
from fuzzvm.report.mail import wrapped_lines
from fuzzvm.scenario.calls import CatPageTables, CheckWxPages, ReadKcore
from fuzzvm.scenario.scenario import Scenario


@dataclass(frozen=True)
class Report:
    """How a kernel tells of an error: the options that make it look, and what it says."""

    options: tuple[str, ...]
    says: str


_KASAN = ("CONFIG_KASAN=y, CONFIG_KASAN_GENERIC=y",)
_LOCKDEP = ("CONFIG_PROVE_LOCKING=y",)
_FOLLOWED = (
    "a fault at a wild address, or nothing where the address made of a missing entry can be read. The same race ends "
    "in `BUG: KASAN: use-after-free` where the walk has read the entry a moment earlier"
)
REPORTS = {
    machine_errors.USE_AFTER_FREE_READ: Report(_KASAN, "`BUG: KASAN: use-after-free`, a read"),
    machine_errors.USE_AFTER_FREE_WRITE: Report(_KASAN, "`BUG: KASAN: use-after-free`, a write"),
    machine_errors.REUSED_OBJECT: Report(
        _KASAN, "`BUG: KASAN: use-after-free`, where the page is not handed out again before it is used"
    ),
    machine_errors.DOUBLE_FREE: Report(_KASAN, "`BUG: Bad page state`, or `BUG: KASAN: double-free`"),
    kernel_errors.BAD_TABLE_POINTER: Report(_KASAN, _FOLLOWED),
    compiled_errors.WILD_ACCESS: Report(_KASAN, _FOLLOWED),
    machine_errors.DEADLOCK: Report(
        (*_LOCKDEP, "CONFIG_DETECT_HUNG_TASK=y"), "`possible circular locking`, or tasks that are blocked"
    ),
    machine_errors.NO_PROGRESS: Report((*_LOCKDEP, "CONFIG_DETECT_HUNG_TASK=y"), "tasks that are blocked"),
    kernel_errors.LOCK_ORDER: Report(_LOCKDEP, "`WARNING: possible circular locking dependency detected`"),
    kernel_errors.SLEEP_IN_ATOMIC: Report(
        ("CONFIG_DEBUG_ATOMIC_SLEEP=y",), "`BUG: sleeping function called from invalid context`"
    ),
    kernel_errors.WALK_WITHOUT_LOCK: Report(("CONFIG_DEBUG_VM=y",), "the warning of mmap_assert_locked()"),
    kernel_errors.MAP_OVER_MAPPING: Report((), "`kernel BUG at mm/vmalloc.c`"),
    compiled_errors.KERNEL_WARNING: Report((), "`WARNING:`"),
    compiled_errors.KERNEL_BUG: Report((), "`kernel BUG at`"),
}
"""What a kernel says where the model, or compiled code, ends in each error; no other error shows."""


@dataclass(frozen=True)
class Told:
    """What the comment says of a finding. `kernel` names the code, `listing` is the schedule.

    `instead` says what `command` does beside a program that waits for luck.
    """

    error: str
    function: str
    headline: str
    kernel: str
    schedule: str
    listing: Sequence[str]
    instead: str
    command: str


def report_of(error: str) -> Report:
    """Return how a kernel tells of an error. Raises ExportError for one that no kernel reports."""
    report = REPORTS.get(error)
    if report is None:
        raise ExportError(f"no kernel reports {error}: there is nothing that a stress program could show")
    return report


def header(scenario: Scenario, told: Told, notes: Sequence[str]) -> str:
    """Return the comment, without its first and last line. Raises ExportError for an error that no kernel reports."""
    report = report_of(told.error)
    where = f" in {told.function}" if told.function else ""
    parts = [
        [
            f"Stress for {told.error}{where}",
            "",
            *wrapped_lines(f"{told.headline[:1].upper()}{told.headline[1:]}. Found in {told.kernel}."),
            "",
        ],
        [*(f"  boot:  {call}" for call in scenario.setup)],
        [*(f"  CPU {cpu}: {call}" for cpu, calls in enumerate(scenario.cpus) for call in calls), ""],
        [*wrapped_lines(f"The shortest schedule that is known, {told.schedule}:"), "", *told.listing, ""],
        [*wrapped_lines(" ".join(notes)), ""] if notes else [],
        ["Kernel options:", *(f"  {option}" for option in (*_options(scenario), *report.options)), ""],
        ["Build, then run as root, in a virtual machine:", ""],
        ["  make KDIR=the folder that the kernel was built in", "  ./run.sh 600", ""],
        wrapped_lines(f"Expected: {report.says}; run.sh stops at it, with exit status 1."),
        [
            *wrapped_lines(
                "When to stop: it is left to luck, so that no length of time without a report is a proof. Where the "
                "race is wide a report comes within seconds to minutes; ten minutes without one say little. "
                f"{told.instead}"
            ),
            "",
            f"  {told.command}",
        ],
    ]
    lines = [line.replace("*/", "* /") for part in parts for line in part]
    return "\n".join(f" * {line}".rstrip() for line in lines)


def _options(scenario: Scenario) -> list[str]:
    options = ["CONFIG_SMP=y, CONFIG_MODULES=y, CONFIG_KALLSYMS=y", "CONFIG_DEBUG_FS=y, CONFIG_PTDUMP_DEBUGFS=y"]
    calls = scenario.every_call
    if any(isinstance(call, CheckWxPages) for call in calls):
        options.append("CONFIG_DEBUG_WX=y")
    if any(isinstance(call, ReadKcore) for call in calls):
        options.append("CONFIG_PROC_KCORE=y")
    if any(isinstance(call, CatPageTables) and call.walks_other_mm for call in calls):
        options.append("x86_64 (page_tables/current_kernel)")
    return options
