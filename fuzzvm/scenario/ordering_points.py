"""The ordering points of the race between ptdump and the free of page tables, and what it is to be without one.

Each point is data: the names that the kernel's operations and annotations have as their `point`, and for each what
becomes of it. Nothing but the name is looked at, so no kernel code is edited. Where an operation cannot go alone (a
lock that is not taken is not released either, nor asserted), the ordering point names all that go with it. An ordering
point that is no operation but a hook of the mitigation is the hook's default, which does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fuzzvm.kernel.arch import FLUSH_TLBI
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.iommu_sva import PTDESC_SET_KERNEL
from fuzzvm.kernel.jump_label import NOP
from fuzzvm.kernel.memory_hotplug import HOTPLUG_LOCK, HOTPLUG_UNLOCK
from fuzzvm.kernel.mmap_lock import ATTRIBUTES, COLLAPSE, FREE, LOOKUP, PROMOTION, WALK, WALK_BESIDE, Role
from fuzzvm.machine.ops import Await, Barrier, Fence, Fetch, Order, Rmw
from fuzzvm.machine.rewrite import Rewrite, Skipped, Yielded

Effect = Callable[[Any], Yielded | Skipped]
"""What becomes of an operation or annotation."""


def drop(op: Yielded) -> Skipped:
    """Leave an operation out whose response nobody looks at."""
    return Skipped()


def relax(op: Rmw | Await) -> Yielded:
    """Take its acquire or release from an atomic operation or a wait."""
    return replace(op, order=Order.PLAIN)


def unhindered(op: Rmw) -> Skipped:
    """Leave out taking a lock, which looks as if it had been free, or releasing it, as if it had been held."""
    return Skipped(op.update.unhindered())  # type: ignore[attr-defined]


def branch_off(op: Fetch) -> Skipped:
    """Take the branch of a static key as if the key were off."""
    return Skipped(NOP)


def as_ishst(op: Fence) -> Yielded:
    """Weaken a barrier to one that orders stores only."""
    return Fence(Barrier.DSB_ISHST)


@dataclass(frozen=True, slots=True)
class OrderingPoint:
    """A point: its stable id, what it is in a line, and the effects and hooks that leave it out.

    `effects` has, by the `point` of an operation or annotation, what becomes of it. `litmus` names the variant of the
    commit's litmus test that leaves out the same, '' where there is none. `arch` is the architecture that alone has it,
    '' where each has.
    """

    name: str
    summary: str
    effects: Mapping[str, Effect] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    litmus: str = ""
    arch: str = ""


def _without(role: Role) -> dict[str, Effect]:
    """Return the effects of not taking an mm's lock for that."""
    effects: dict[str, Effect] = {role.lock: unhindered, role.unlock: unhindered}
    if role.assertion:
        effects[role.assertion] = drop
    return effects


_FLUSH_TLBI: dict[str, Effect] = dict.fromkeys(FLUSH_TLBI.values(), drop)
_POKE_SYNCS: dict[str, Effect] = dict.fromkeys(("poke-sync-1", "poke-sync-2", "poke-sync-3"), drop)

POINTS: tuple[OrderingPoint, ...] = (
    # static_branch_inc: arm64's patch_text, one site of the key after the other
    OrderingPoint("patch-store", "the store of the branch into the code", {"patch-store": drop}, arch="arm64"),
    OrderingPoint("patch-dc", "DC CVAU of the patched code", {"patch-dc": drop}, arch="arm64"),
    OrderingPoint(
        "patch-dsb-1", "DSB ISH between DC and IC", {"patch-dsb-1": drop}, litmus="ptdump-no-dsb-after-dc", arch="arm64"
    ),
    OrderingPoint(
        "patch-ic", "IC IVAU of the patched code", {"patch-ic": drop}, litmus="ptdump-no-ic-ivau", arch="arm64"
    ),
    OrderingPoint("patch-dsb-2", "DSB ISH after IC", {"patch-dsb-2": drop}, arch="arm64"),
    OrderingPoint(
        "patch-isb", "ISB at the end of a patch", {"patch-isb": drop}, litmus="ptdump-no-enable-isb", arch="arm64"
    ),
    OrderingPoint("patch-ipi", "the IPI of kick_all_cpus_sync", {"patch-ipi": drop}, arch="arm64"),
    # static_branch_inc: x86_64's text_poke_bp_batch, all sites of the key together
    OrderingPoint("poke-sync-1", "the IPI after the breakpoints", {"poke-sync-1": drop}, arch="x86_64"),
    OrderingPoint("poke-sync-2", "the IPI after the second bytes", {"poke-sync-2": drop}, arch="x86_64"),
    OrderingPoint("poke-sync-3", "the IPI after the first bytes", {"poke-sync-3": drop}, arch="x86_64"),
    OrderingPoint("poke-syncs", "all three IPIs of a patch (text_poke_sync)", _POKE_SYNCS, arch="x86_64"),
    # the walk
    OrderingPoint("walk-key", "the walk turning the key on", hooks=("before_walk", "after_walk")),
    OrderingPoint("walk-lock", "the walk's mmap_write_lock", _without(WALK)),
    OrderingPoint(
        "walk-lock-acquire",
        "the acquire of the walk's mmap_write_lock",
        {WALK.lock: relax},
        litmus="ptdump-relaxed-write-lock",
    ),
    OrderingPoint("walk-unlock-release", "the release of the walk's mmap_write_unlock", {WALK.unlock: relax}),
    OrderingPoint("walk-init-lock", "the walk of another mm taking init_mm's lock as well", _without(WALK_BESIDE)),
    OrderingPoint(
        "walk-rcu",
        "the walk being a read-side section of RCU",
        {"rcu-read-lock": unhindered, "rcu-read-unlock": unhindered},
    ),
    OrderingPoint(
        "walk-rcu-acquire",
        "what precedes a grace period being seen by the sections that begin after it did",
        {"rcu-read-lock": relax},
    ),
    OrderingPoint(
        "walk-rcu-release",
        "the accesses of a section taking place before its end",
        {"rcu-read-unlock": relax},
    ),
    OrderingPoint(
        "hotplug-lock",
        "the walk's get_online_mems, which keeps hot-remove away",
        {HOTPLUG_LOCK: unhindered, HOTPLUG_UNLOCK: unhindered},
    ),
    # the promotion: vmap_try_huge_*
    OrderingPoint("promotion-lock", "the promotion's mmap_read_trylock and unlock", _without(PROMOTION)),
    OrderingPoint(
        "promotion-lock-acquire", "the acquire of the promotion's mmap_read_trylock", {PROMOTION.lock: relax}
    ),
    OrderingPoint(
        "promotion-unlock-release", "the release of the promotion's mmap_read_unlock", {PROMOTION.unlock: relax}
    ),
    # CPA: cpa_collapse_large_pages, change_page_attr_set_clr
    OrderingPoint("collapse-lock", "init_mm's lock around a collapse", _without(COLLAPSE), arch="x86_64"),
    OrderingPoint(
        "attributes-lock", "init_mm's lock around a change of protection", _without(ATTRIBUTES), arch="x86_64"
    ),
    OrderingPoint(
        PTDESC_SET_KERNEL,
        "a split's table being one of the kernel's, which are freed behind IOMMUs (with iommu_sva)",
        {PTDESC_SET_KERNEL: drop},
        arch="x86_64",
    ),
    OrderingPoint("lookup-lock", "init_mm's lock around text poking's look-up", _without(LOOKUP), arch="x86_64"),
    # the free: pmd_free_pte_page, pud_free_pmd_page
    OrderingPoint("free-clear", "the clear of the entry before its table is freed", {"free-clear": drop}),
    OrderingPoint("flush-dsb-ishst", "DSB ISHST between clear and TLBI", {"flush-dsb-ishst": drop}, arch="arm64"),
    OrderingPoint("flush-tlbi", "TLBI of the cleared entry (INVLPG on x86_64)", _FLUSH_TLBI),
    OrderingPoint("flush-dsb-ish", "DSB ISH after TLBI", {"flush-dsb-ish": drop}, arch="arm64"),
    OrderingPoint(
        "flush-dsbs",
        "both DSBs of the flush",
        {"flush-dsb-ishst": drop, "flush-dsb-ish": drop},
        litmus="ptdump-no-flush-dsb",
        arch="arm64",
    ),
    OrderingPoint(
        "flush-dsb-ish-full",
        "DSB ISH after TLBI ordering more than stores (as DSB ISHST)",
        {"flush-dsb-ish": as_ishst},
        litmus="ptdump-flush-dsb-ishst",
        arch="arm64",
    ),
    OrderingPoint(
        "flush-isb", "ISB at the end of the flush", {"flush-isb": drop}, litmus="ptdump-no-flush-isb", arch="arm64"
    ),
    OrderingPoint("flush-ipi", "the IPI that flushes the TLBs", {"flush-ipi": drop}, arch="x86_64"),
    # the unmap: vunmap_range, and the purge of what vfree has put off
    OrderingPoint("unmap-flush-tlbi", "TLBI of the range that vunmap_range has cleared", {"unmap-flush-tlbi": drop}),
    OrderingPoint("purge-flush-tlbi", "TLBI of the areas that a purge makes free again", {"purge-flush-tlbi": drop}),
    OrderingPoint("free-key-check", "the free looking at the key (branch as if off)", {"free-key-check": branch_off}),
    OrderingPoint("free-lock", "the free's mmap_read_lock and unlock", _without(FREE)),
    OrderingPoint("free-lock-acquire", "the acquire of the free's mmap_read_lock", {FREE.lock: relax}),
    OrderingPoint(
        "free-unlock-release",
        "the release of the free's mmap_read_unlock",
        {FREE.unlock: relax},
        litmus="ptdump-plain-unlock",
    ),
    # call_rcu, and rcu_core with its grace period
    OrderingPoint("call-rcu-release", "call_rcu ordering the clear before the grace period", {"call-rcu": relax}),
    OrderingPoint(
        "grace-period", "the grace period waiting for the sections that had begun", {"grace-period-wait": drop}
    ),
    OrderingPoint(
        "grace-period-begin-fence", "the full barrier before a grace period", {"grace-period-begin-fence": drop}
    ),
    OrderingPoint(
        "grace-period-begin-release",
        "the barriers at the beginning of a grace period, all of them",
        {"grace-period-begin-fence": drop, "grace-period-begin": relax},
    ),
    OrderingPoint("grace-period-end-fence", "the full barrier after a grace period", {"grace-period-end-fence": drop}),
    OrderingPoint(
        "grace-period-end-acquire",
        "the barriers at the end of a grace period, all of them",
        {"grace-period-end-fence": drop, "grace-period-wait": relax},
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


def rewrite(points: Sequence[OrderingPoint]) -> LeaveOut | None:
    """Return what leaves these points out of the programs of a machine; None where there is nothing to leave out.

    Where two of them have an effect on the same operation, the first one's is taken.
    """
    effects: dict[str, Effect] = {}
    for point in reversed(points):
        effects |= point.effects
    return LeaveOut(effects) if effects else None


def strip_hooks(mitigation: type[Mitigation], points: Sequence[OrderingPoint]) -> type[Mitigation]:
    """Return a mitigation without the hooks that are these points."""
    hooks = {hook: getattr(Mitigation, hook) for point in points for hook in point.hooks}
    return type(mitigation.__name__, (mitigation,), hooks) if hooks else mitigation


def used(point: OrderingPoint, mitigation: type[Mitigation], rewrites: Iterable[Rewrite | None]) -> bool:
    """Return whether runs under these rewrites had anything to leave out: a scheme need not have the point."""
    if point.hooks:
        return any(getattr(mitigation, hook) is not getattr(Mitigation, hook) for hook in point.hooks)
    return any(isinstance(one, LeaveOut) and not one.used.isdisjoint(point.effects) for one in rewrites)


class LeaveOut:
    """The rewrite that has these effects, by the points of operations and annotations."""

    def __init__(self, effects: Mapping[str, Effect]) -> None:
        self._effects = effects
        self.used: set[str] = set()
        """The points that it has come upon so far. Only ever looked at from outside, after a run."""

    def __call__(self, op: Yielded, /) -> Yielded | Skipped:
        # broken code may yield anything
        point = getattr(op, "point", "")
        effect = self._effects.get(point)
        if effect is None:
            return op
        self.used.add(point)
        return effect(op)
