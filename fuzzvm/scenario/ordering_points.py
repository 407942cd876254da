"""The ordering points of the race between ptdump and the free of page tables, and what it is to be without one.

Each point is data: the operations that it stands for, by function and kind, and what becomes of them. They are taken
out of what the kernel's functions yield, so that no kernel code is edited. Where an operation cannot go alone (a lock
that is not taken is not released either, nor asserted), the point names all that go with it. A point that is no
operation but a hook of the mitigation is the hook's default, which does nothing.

An operation is found by the function that yields it, by its kind, and, where a function yields several of a kind, by
which of the function's own yields it is; never by how often it was executed, so that a point is the same in every run.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import CodeType
from typing import Any

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.jump_label import NOP
from fuzzvm.kernel.mmap_lock import AssertWriteLocked
from fuzzvm.kernel.rcu import RcuState
from fuzzvm.kernel.rwsem import UNLOCKED, RwsemState
from fuzzvm.machine.ops import (
    Await,
    Barrier,
    CacheMaintenance,
    Fence,
    Fetch,
    InterruptAll,
    Order,
    Rmw,
    Steps,
    Store,
    Tlbi,
)
from fuzzvm.machine.rewrite import Rewrite, Skipped, Yielded, functions, innermost

Effect = Callable[[Any], Yielded | Skipped]
"""What becomes of an operation."""


def drop(op: Yielded) -> Skipped:
    """Leave an operation out whose response nobody looks at."""
    return Skipped()


def relax(op: Rmw | Await) -> Yielded:
    """Take its acquire or release from an atomic operation or a wait."""
    return replace(op, order=Order.PLAIN)


def not_taken(op: Rmw) -> Skipped:
    """Leave out taking a semaphore, which looks as if it had been free."""
    return Skipped(UNLOCKED)


def not_released_by_writer(op: Rmw) -> Skipped:
    """Leave out releasing a semaphore that was not taken for writing."""
    cpu: int = op.update.cpu  # type: ignore[attr-defined]
    return Skipped(RwsemState(writer=cpu))


def not_released_by_reader(op: Rmw) -> Skipped:
    """Leave out releasing a semaphore that was not taken for reading."""
    cpu: int = op.update.cpu  # type: ignore[attr-defined]
    return Skipped(RwsemState(readers=(cpu,)))


def not_read_unlocked(op: Rmw) -> Skipped:
    """Leave out the end of a read-side section that did not begin."""
    cpu: int = op.update.cpu  # type: ignore[attr-defined]
    return Skipped(RcuState(readers=(cpu,)))


def branch_off(op: Fetch) -> Skipped:
    """Take the branch of a static key as if the key were off."""
    return Skipped(NOP)


def as_ishst(op: Fence) -> Yielded:
    """Weaken a barrier to one that orders stores only."""
    return Fence(Barrier.DSB_ISHST)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which operations, and what becomes of them.

    `function` is the innermost function, `kind` the operation's type, `inside` a function further out, `outside` one
    that must not be there, `nth` which of the function's own yields it is, counted from 0; None for any.
    """

    function: str
    kind: type[Yielded]
    effect: Effect
    inside: str | None = None
    nth: int | None = None
    outside: str | None = None


@dataclass(frozen=True, slots=True)
class OrderingPoint:
    """A point: its stable id, what it is in a line, and the rules and hooks that leave it out.

    `litmus` names the variant of the commit's litmus test that leaves out the same, '' where there is none. `arch` is
    the architecture that alone has it, '' where each has.
    """

    name: str
    summary: str
    rules: tuple[Rule, ...] = ()
    hooks: tuple[str, ...] = ()
    litmus: str = ""
    arch: str = ""


PATCH, BATCH, FLUSH = "patch_text", "text_poke_bp_batch", "flush_tlb_kernel_pgtable"
RANGE_FLUSH = "flush_tlb_kernel_range"
FREES = ("pmd_free_pte_page", "pud_free_pmd_page")

_FLUSH_DSB_ISHST = Rule(FLUSH, Fence, drop, nth=0)
_FLUSH_DSB_ISH = Rule(FLUSH, Fence, drop, nth=2)

POINTS: tuple[OrderingPoint, ...] = (
    # static_branch_inc: arm64's patch_text, one site of the key after the other
    OrderingPoint("patch-store", "the store of the branch into the code", (Rule(PATCH, Store, drop),), arch="arm64"),
    OrderingPoint(
        "patch-dc", "DC CVAU of the patched code", (Rule(PATCH, CacheMaintenance, drop, nth=1),), arch="arm64"
    ),
    OrderingPoint(
        "patch-dsb-1",
        "DSB ISH between DC and IC",
        (Rule(PATCH, Fence, drop, nth=2),),
        litmus="ptdump-no-dsb-after-dc",
        arch="arm64",
    ),
    OrderingPoint(
        "patch-ic",
        "IC IVAU of the patched code",
        (Rule(PATCH, CacheMaintenance, drop, nth=3),),
        litmus="ptdump-no-ic-ivau",
        arch="arm64",
    ),
    OrderingPoint("patch-dsb-2", "DSB ISH after IC", (Rule(PATCH, Fence, drop, nth=4),), arch="arm64"),
    OrderingPoint(
        "patch-isb",
        "ISB at the end of a patch",
        (Rule(PATCH, Fence, drop, nth=5),),
        litmus="ptdump-no-enable-isb",
        arch="arm64",
    ),
    OrderingPoint(
        "patch-ipi", "the IPI of kick_all_cpus_sync", (Rule("patch_text_sync", InterruptAll, drop),), arch="arm64"
    ),
    # static_branch_inc: x86_64's text_poke_bp_batch, all sites of the key together
    OrderingPoint(
        "poke-sync-1", "the IPI after the breakpoints", (Rule(BATCH, InterruptAll, drop, nth=2),), arch="x86_64"
    ),
    OrderingPoint(
        "poke-sync-2", "the IPI after the second bytes", (Rule(BATCH, InterruptAll, drop, nth=3),), arch="x86_64"
    ),
    OrderingPoint(
        "poke-sync-3", "the IPI after the first bytes", (Rule(BATCH, InterruptAll, drop, nth=4),), arch="x86_64"
    ),
    OrderingPoint(
        "poke-syncs", "all three IPIs of a patch (text_poke_sync)", (Rule(BATCH, InterruptAll, drop),), arch="x86_64"
    ),
    # the walk
    OrderingPoint("walk-key", "the walk turning the key on", hooks=("before_walk", "after_walk")),
    OrderingPoint(
        "walk-lock",
        "the walk's mmap_write_lock",
        (
            Rule("down_write", Rmw, not_taken, inside="mmap_write_lock"),
            Rule("up_write", Rmw, not_released_by_writer, inside="mmap_write_unlock", outside="walk_unlocking"),
            Rule("walk_page_range", AssertWriteLocked, drop),
        ),
    ),
    OrderingPoint(
        "walk-lock-acquire",
        "the acquire of the walk's mmap_write_lock",
        (
            Rule("down_write", Rmw, relax, inside="mmap_write_lock"),
            Rule("down_write", Await, relax, inside="mmap_write_lock"),
        ),
        litmus="ptdump-relaxed-write-lock",
    ),
    OrderingPoint(
        "walk-unlock-release",
        "the release of the walk's mmap_write_unlock",
        (Rule("up_write", Rmw, relax, inside="mmap_write_unlock", outside="walk_unlocking"),),
    ),
    OrderingPoint(
        "walk-init-lock",
        "the walk of another mm taking init_mm's lock as well",
        (
            Rule("down_write", Rmw, not_taken, inside="mmap_write_lock_nested"),
            Rule("up_write", Rmw, not_released_by_writer, inside="walk_unlocking"),
            Rule("walk_locked", AssertWriteLocked, drop),
        ),
    ),
    OrderingPoint(
        "walk-rcu",
        "the walk being a read-side section of RCU",
        (
            Rule("rcu_read_lock", Rmw, drop),
            Rule("rcu_read_unlock", Rmw, not_read_unlocked),
        ),
    ),
    OrderingPoint(
        "walk-rcu-acquire",
        "what precedes a grace period being seen by the sections that begin after it did",
        (Rule("rcu_read_lock", Rmw, relax),),
    ),
    OrderingPoint(
        "walk-rcu-release",
        "the accesses of a section taking place before its end",
        (Rule("rcu_read_unlock", Rmw, relax),),
    ),
    # the promotion: vmap_try_huge_*
    OrderingPoint(
        "promotion-lock",
        "the promotion's mmap_read_trylock and unlock",
        (
            Rule("down_read_trylock", Rmw, not_taken, inside="before_promotion"),
            Rule("up_read", Rmw, not_released_by_reader, inside="after_promotion"),
        ),
    ),
    OrderingPoint(
        "promotion-lock-acquire",
        "the acquire of the promotion's mmap_read_trylock",
        (Rule("down_read_trylock", Rmw, relax, inside="before_promotion"),),
    ),
    OrderingPoint(
        "promotion-unlock-release",
        "the release of the promotion's mmap_read_unlock",
        (Rule("up_read", Rmw, relax, inside="after_promotion"),),
    ),
    # the free: pmd_free_pte_page, pud_free_pmd_page
    OrderingPoint(
        "free-clear",
        "the clear of the entry before its table is freed",
        (Rule("pmd_free_pte_page", Store, drop), Rule("pud_free_pmd_page", Store, drop)),
    ),
    OrderingPoint("flush-dsb-ishst", "DSB ISHST between clear and TLBI", (_FLUSH_DSB_ISHST,), arch="arm64"),
    OrderingPoint(
        "flush-tlbi",
        "TLBI of the cleared entry (INVLPG on x86_64)",
        # x86_64 flushes a range of one page, which arm64 never does there
        (Rule(FLUSH, Tlbi, drop), *(Rule(RANGE_FLUSH, Tlbi, drop, inside=free) for free in FREES)),
    ),
    OrderingPoint("flush-dsb-ish", "DSB ISH after TLBI", (_FLUSH_DSB_ISH,), arch="arm64"),
    OrderingPoint(
        "flush-dsbs",
        "both DSBs of the flush",
        (_FLUSH_DSB_ISHST, _FLUSH_DSB_ISH),
        litmus="ptdump-no-flush-dsb",
        arch="arm64",
    ),
    OrderingPoint(
        "flush-dsb-ish-full",
        "DSB ISH after TLBI ordering more than stores (as DSB ISHST)",
        (Rule(FLUSH, Fence, as_ishst, nth=2),),
        litmus="ptdump-flush-dsb-ishst",
        arch="arm64",
    ),
    OrderingPoint(
        "flush-isb",
        "ISB at the end of the flush",
        (Rule(FLUSH, Fence, drop, nth=3),),
        litmus="ptdump-no-flush-isb",
        arch="arm64",
    ),
    OrderingPoint(
        "flush-ipi",
        "the IPI that flushes the TLBs",
        (Rule("flush_tlb_kernel_range", InterruptAll, drop),),
        arch="x86_64",
    ),
    # the unmap: vunmap_range, and the purge of what vfree has put off
    OrderingPoint(
        "unmap-flush-tlbi",
        "TLBI of the range that vunmap_range has cleared",
        (Rule(RANGE_FLUSH, Tlbi, drop, inside="vunmap_range"),),
    ),
    OrderingPoint(
        "purge-flush-tlbi",
        "TLBI of the areas that a purge makes free again",
        (Rule(RANGE_FLUSH, Tlbi, drop, inside="purge_vmap_area_lazy"),),
    ),
    OrderingPoint(
        "free-key-check",
        "the free looking at the key (branch as if off)",
        (Rule("static_branch_unlikely", Fetch, branch_off),),
    ),
    OrderingPoint(
        "free-lock",
        "the free's mmap_read_lock and unlock",
        (
            Rule("down_read", Rmw, not_taken, inside="mmap_read_lock"),
            Rule("up_read", Rmw, not_released_by_reader, inside="mmap_read_unlock", outside="after_promotion"),
        ),
    ),
    OrderingPoint(
        "free-lock-acquire",
        "the acquire of the free's mmap_read_lock",
        (
            Rule("down_read", Rmw, relax, inside="mmap_read_lock"),
            Rule("down_read", Await, relax, inside="mmap_read_lock"),
        ),
    ),
    OrderingPoint(
        "free-unlock-release",
        "the release of the free's mmap_read_unlock",
        (Rule("up_read", Rmw, relax, inside="mmap_read_unlock", outside="after_promotion"),),
        litmus="ptdump-plain-unlock",
    ),
    # call_rcu, and rcu_core with its grace period
    OrderingPoint(
        "call-rcu-release",
        "call_rcu ordering the clear before the grace period",
        (Rule("call_rcu", Rmw, relax),),
    ),
    OrderingPoint(
        "grace-period",
        "the grace period waiting for the sections that had begun",
        (Rule("synchronize_rcu", Await, drop),),
    ),
    OrderingPoint(
        "grace-period-begin-fence",
        "the full barrier before a grace period",
        (Rule("synchronize_rcu", Fence, drop, nth=0),),
    ),
    OrderingPoint(
        "grace-period-begin-release",
        "the barriers at the beginning of a grace period, all of them",
        (Rule("synchronize_rcu", Fence, drop, nth=0), Rule("synchronize_rcu", Rmw, relax)),
    ),
    OrderingPoint(
        "grace-period-end-fence",
        "the full barrier after a grace period",
        (Rule("synchronize_rcu", Fence, drop, nth=3),),
    ),
    OrderingPoint(
        "grace-period-end-acquire",
        "the barriers at the end of a grace period, all of them",
        (Rule("synchronize_rcu", Fence, drop, nth=3), Rule("synchronize_rcu", Await, relax)),
    ),
)
"""In the order of the algorithm."""

IPI = "patch-ipi"
"""The point that the commit's litmus test leaves out, and that orders much by itself."""

_BY_NAME = {point.name: point for point in POINTS}


def names(arch: str | None = None) -> tuple[str, ...]:
    """Return the ids of all points, or of those that an architecture has, in the order of the algorithm."""
    return tuple(point.name for point in POINTS if arch is None or point.arch in ("", arch))


def get(names: Sequence[str]) -> tuple[OrderingPoint, ...]:
    """Return the points of these ids. Raises KeyError for an unknown one."""
    return tuple(_BY_NAME[name] for name in names)


def rewrite(points: Sequence[OrderingPoint]) -> Rewrite | None:
    """Return what leaves these points out of the programs of a machine; None where there is nothing to leave out."""
    rules = [rule for point in points for rule in point.rules]
    return _LeaveOut(rules) if rules else None


def strip_hooks(mitigation: type[Mitigation], points: Sequence[OrderingPoint]) -> type[Mitigation]:
    """Return a mitigation without the hooks that are these points."""
    hooks = {hook: getattr(Mitigation, hook) for point in points for hook in point.hooks}
    return type(mitigation.__name__, (mitigation,), hooks) if hooks else mitigation


def used(point: OrderingPoint, mitigation: type[Mitigation], rewrites: Iterable[Rewrite | None]) -> bool:
    """Return whether runs under these rewrites had anything to leave out: a scheme need not have the point."""
    if point.hooks:
        return any(getattr(mitigation, hook) is not getattr(Mitigation, hook) for hook in point.hooks)
    return any(isinstance(one, _LeaveOut) and not one.used.isdisjoint(point.rules) for one in rewrites)


class _LeaveOut:
    """The rewrite of some rules, found by the innermost function and the kind."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._kinds = frozenset(rule.kind for rule in rules)
        self._rules: dict[tuple[str, type[Yielded]], list[Rule]] = {}
        self.used: set[Rule] = set()
        """Those that have found an operation so far. Only ever looked at from outside, after a run."""
        for rule in rules:
            self._rules.setdefault((rule.function, rule.kind), []).append(rule)

    def __call__(self, op: Yielded, program: Steps[Any]) -> Yielded | Skipped:
        if type(op) not in self._kinds:
            return op
        frame = innermost(program)
        for rule in self._rules.get((frame.gi_code.co_name, type(op)), ()):
            if rule.nth is not None and _nth(frame.gi_code, frame.gi_frame.f_lasti) != rule.nth:
                continue
            around = functions(program) if rule.inside or rule.outside else ()
            if (rule.inside is None or rule.inside in around) and rule.outside not in around:
                self.used.add(rule)
                return rule.effect(op)
        return op


@cache
def _nth(code: CodeType, lasti: int) -> int:
    """Return which of a function's own yields, not those that delegate, one stands at, counted from 0."""
    own = 0
    before = ""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "CACHE":
            continue
        if instruction.offset > lasti:
            break
        # f_lasti is the yield itself up to Python 3.12, and the RESUME behind it in 3.13
        if instruction.opname == "YIELD_VALUE" and before != "SEND":
            own += 1
        before = instruction.opname
    return own - 1
