"""The normal form of AArch64 memory under a machine: of states with the same future, one.

The timeline of a run holds all that was ever stored, and views hold places on it, so that two runs which stored the
same in another order never come to the same state. Next to all of that is out of reach for good. Given what each CPU
may still do (`Needs`: more than it does is never wrong), `normal_form` keeps what some CPU could still tell apart, and
numbers it anew. Each rule with why it changes nothing, by which is meant: the same steps are possible afterwards, with
the same number of ways in the same order, the same responses, and states after them that are alike again.

Stores. A CPU that may load from a location reads the last store at or before its bound (the floors, its own last
store, what it has seen), or a later one. Bounds only grow. So stores before the smallest bound of the CPUs that may
load from there are never read again, and the oldest one kept takes the place of the initial contents. Atomics and
waits read the latest store, which is always kept. What oracles see is the latest store as well.

Points. Places on the timeline are only ever compared with the timestamps of stores that follow another one kept for
the same location: whether such a store, a *point*, is at or before a view decides whether what it overwrote can be
read. A point counts for a CPU if the CPU may load from that location and its bound there is before it. (Code: what is
kept of a site that a CPU may still fetch from, stores, DC, IC and their completion, are all points for it.) Of a view
it is enough to know the last of the CPU's points at or before it, as max() of views goes with that, and as every
message to come is later than all views there are. Where a CPU has no points, all its views are 0.

Messages. A message that is no point matters by the view that reading it gives. The store that a CPU may forward from
(`own`) is as good as any other for that CPU's view, so this CPU does not count there. Which points a view is compared
with, and so what must keep its place beside what, is said in `comparisons`; of all orders that keep that, one stands
for all. The oldest store kept of a location that need not stay behind anything becomes initial contents. A fetch takes
place no earlier than what put the stores before the oldest one kept out of reach, and so after that one in any case.

Bounds. As views are rounded down, the bound at a location of which several stores are kept, or one that has a place,
is written into what the CPU has `seen` there, which is used for nothing else.

Barriers. What a view is only read for by barriers that the CPU executes no more is 0, and so is what only fetches read.

What the adapter never reads is 0: floors of stores and of cache maintenance, which are put at the end of the timeline
and so past any floor, and pick views, which are for stores only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from fuzzvm.machine.known import Known
from fuzzvm.machine.memory import Needs
from fuzzvm.machine.memory.arm64.layout import Layout, Points, layout_of
from fuzzvm.machine.memory.arm64.local import Local
from fuzzvm.machine.memory.arm64.outline import NOT, Outline, live_views, outline_of
from fuzzvm.machine.memory.arm64.timeline import Timeline
from fuzzvm.machine.memory.arm64.views import EMPTY, LocationViews, Views
from fuzzvm.machine.ops import Address, Value

KeyOf = Callable[[Value], Hashable]

_NOTHING: frozenset[int] = frozenset()


class _Wanted:
    """What a CPU may still do. Equal needs have one object, which is compared by identity."""

    __slots__ = ("needs",)

    def __init__(self, needs: Needs) -> None:
        self.needs = needs


class NormalForms:
    """The normal forms of the states of one search, and the parts that these are made of.

    Equal parts are one object here (`timeline`, `local`), so that they are compared by identity. A normal form is
    made in steps, each of which is looked up by all that it reads:

    1. an outline of each CPU, by the shape of the timeline, the CPU's part and its needs;
    2. the layout of what is kept, by the shape, all outlines, and the code that is loaded as well;
    3. the new part of each CPU, by the layout, the CPU's old part and its needs, and what others may free;
    4. the new timeline, by the layout and the old one.

    The shape of a timeline is all but its values: kind and location of each message, and which IC a DSB completes. What
    values point to matters to the layout where a CPU carries views no further than with pointers (`Outline.within`):
    there it is looked up by the timeline as well. Steps read nothing else, but for `points_to` and `key_of`, which stay
    the same during a search. Of a CPU on its own there are few parts, so that most steps are known.
    """

    def __init__(self) -> None:
        self._timelines: dict[Hashable, Timeline] = {}
        self._shapes: dict[Hashable, Timeline] = {}
        self._locals: dict[Hashable, Local] = {}
        self._wanted: dict[Needs, _Wanted] = {}
        self._wanted_at: Known[int, tuple[Needs, _Wanted]] = Known()
        """By the identity of needs, which are kept so that no others take their place."""
        self._outlines: Known[tuple[Timeline, Local, _Wanted], tuple[Outline, int]] = Known()
        self._outline_numbers: dict[Outline, int] = {}
        self._layouts: Known[tuple[Hashable, ...], Layout] = Known()
        self._moved: Known[tuple[Layout, int, Local, _Wanted, frozenset[int]], Local] = Known()
        self._applied: Known[tuple[Layout, Timeline], Timeline] = Known()

    def timeline(self, timeline: Timeline, key_of: KeyOf) -> Timeline:
        """Return the one timeline that is equal to this."""
        one = self._timelines.setdefault(timeline.key(key_of), timeline)
        if one is timeline:
            shape_key = timeline.shape_key()
            one.shape = self._shapes.get(shape_key) or self._shapes.setdefault(shape_key, timeline.copy())
        return one

    def local(self, local: Local, key_of: KeyOf) -> Local:
        """Return the one part of a CPU that is equal to this, which does not change any more."""
        return self._locals.setdefault(local.key(key_of), local)

    def normal(
        self,
        timeline: Timeline,
        locals_: Sequence[Local],
        needs: Sequence[Needs],
        points_to: Callable[[Hashable], int],
        key_of: KeyOf,
    ) -> tuple[Timeline, list[Local]]:
        """Return the normal form of a timeline and the parts of all CPUs, given what each CPU may still do.

        `points_to` returns the object that a value points to, 0 if none.
        """
        shape = timeline.shape
        assert shape is not None
        wanted = []
        outlines = []
        numbers = []
        values = None
        fetched = False
        for local, need in zip(locals_, needs, strict=True):
            own = (self._wanted_at.get(id(need)) or self._wanted_by(need))[1]
            wanted.append(own)
            fetched = fetched or bool(need.fetches)
            outlined = (shape, local, own)
            known = self._outlines.get(outlined)
            if known is None:
                outline = outline_of(shape, local, need)
                number = self._outline_numbers.setdefault(outline, len(self._outline_numbers))
                known = self._outlines.keep(outlined, (outline, number))
            outlines.append(known[0])
            numbers.append(known[1])
            if known[0].within is not None:
                values = timeline
        loaded_code = self._loaded_code(wanted) if fetched else _NOTHING
        laid_out = (shape, values, loaded_code, *numbers)
        layout = self._layouts.get(laid_out)
        if layout is None:
            layout = self._layouts.keep(laid_out, layout_of(timeline, outlines, loaded_code, points_to))
        parts = []
        for cpu, (local, own) in enumerate(zip(locals_, wanted, strict=True)):
            freed = _NOTHING
            if local.loads or local.overtaken:
                freed = freed.union(*[other.needs.frees for number, other in enumerate(wanted) if number != cpu])
            moved = (layout, cpu, local, own, freed)
            made = self._moved.get(moved)
            if made is None:
                made = self.local(_moved(layout, cpu, local, own.needs, freed, outlines[cpu].oldest), key_of)
                self._moved.keep(moved, made)
            parts.append(made)
        applied = (layout, timeline)
        new_timeline = self._applied.get(applied)
        if new_timeline is None:
            new_timeline = self._applied.keep(applied, self.timeline(layout.applied(timeline), key_of))
        return new_timeline, parts

    def _wanted_by(self, needs: Needs) -> tuple[Needs, _Wanted]:
        wanted = self._wanted.get(needs)
        if wanted is None:
            wanted = self._wanted[needs] = _Wanted(needs)
        return self._wanted_at.keep(id(needs), (needs, wanted))

    @staticmethod
    def _loaded_code(wanted: Sequence[_Wanted]) -> frozenset[Address]:
        """Return the code that any CPU may fetch and any may load."""
        code = _NOTHING.union(*[own.needs.fetches for own in wanted])
        return code & _NOTHING.union(*[own.needs.reads for own in wanted])


def _moved(layout: Layout, cpu: int, local: Local, needs: Needs, freed: frozenset[int], oldest: Sequence[int]) -> Local:
    points = layout.points[cpu]
    made = Local(_views(layout, points, local.views, needs, oldest))
    if points.old:
        learned = {number: points.round_towards(number, view) for number, view in local.learned.items()}
        made.learned = {number: view for number, view in learned.items() if view}
        tokens = {token: points.round(view) for token, view in local.tokens.items()}
        made.tokens = {token: view for token, view in tokens.items() if view}
    if local.pending:
        # epochs of what is pending count from the one that a store would have now
        epochs = sorted({entry.epoch for entry in local.pending} | {local.epoch})
        made.pending = tuple(
            [
                replace(
                    entry,
                    epoch=epochs.index(entry.epoch),
                    dependency=points.round(entry.dependency),
                    data=points.round(entry.data),
                )
                for entry in local.pending
            ]
        )
        made.epoch = len(epochs) - 1
    # only a free by another CPU asks for them
    if needs.overtakes:
        made.loads = local.loads & freed
    made.overtaken = local.overtaken & freed
    return made


def _views(layout: Layout, points: Points, view: Views, needs: Needs, oldest: Sequence[int]) -> Views:
    new = Views()
    moved, shape = layout.moved, layout.shape
    new.invalidations = tuple(sorted(moved[at] for at in view.invalidations))
    rounded = points.round
    seen = {
        address: stores[index] if index >= 0 else 0
        for (address, stores), index in zip(shape.locations(), oldest, strict=True)
        if index > NOT
    }
    if points.old:
        for name, at in live_views(view, needs):
            if at:
                setattr(new, name, rounded(at))
        for address, cell in view.cells.items():
            if address not in needs.reads:
                continue
            stores = shape.stores(address)
            readable = seen.get(address, stores[-1] if stores else 0)
            made = LocationViews(
                own=moved.get(cell.own, 0) if cell.own == readable else 0,
                cleaned=rounded(cell.cleaned),
                dependency=rounded(cell.dependency),
                chain=rounded(cell.chain),
                exclusive=rounded(cell.exclusive),
            )
            if made != EMPTY:
                new.cells[address] = made
    for address, first in seen.items():
        at = moved.get(first, 0)
        if at:
            new.cells[address] = new.cells.get(address, EMPTY)._replace(seen=at)
    return new
