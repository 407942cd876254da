"""Which orders of two adjacent messages need not both be explored.

Two timelines that differ in the order of two neighbours m, w stand for the same executions unless the order matters to
one of the two or to something that takes place between them: an event at m's timestamp with an edge of ordered-before
to w. What orders events before a message is known (Arm ARM B2.3, aarch64.cat):

- w's own thread orders its earlier events before w; they are in w's floor;
- a load by another thread that reads something older than store w (from-reads), and with DIC = 1 a fetch by any thread;
- a fetch before IC w (IC-after) or before COMPLETE w (IC-ob);
- the same location: store and store, store and DC, and for IC-ca the order of DC and IC; with IDC = 1 that of store
  and IC.

So a DC, or a store to a location that no other thread loads (or, with DIC = 1, that anybody fetches), can move to the
front of m if its floor lies before m; these are called free here. And an IC can move behind any m of another thread
except a DC of the same location (with IDC = 1, a store to it): a fetch between the two that was after the IC may count
as before it, since what IC-ob asks in return (earlier fetches are before the IC's completion) already follows where
the fetch is ordered before m.

m and w may be of one thread. Then the thread's own loads are no observers either: one that precedes w in its program is
in w's floor where it is ordered before w at all, and one that follows w reads w or something newer.

Free messages are explored as early, IC as late as they can be; ties go to the lower thread, and between two messages of
one thread to the lower location. Each swap reduces the number of pairs in the wrong order, so that every timeline has
an equivalent one that is explored.
"""

from __future__ import annotations

from collections.abc import Callable

from fuzzvm.machine.memory.arm64.timeline import CLEAN, INVALIDATE, STORE, Message, Timeline
from fuzzvm.machine.memory.arm64.views import CacheType

Observed = Callable[[Message], bool]
"""Whether the place of a store matters to a load of another thread, or to a fetch."""


def redundant(timeline: Timeline, message: Message, floor: int, observed: Observed, caches: CacheType) -> bool:
    """Return whether a message at the end of a timeline, after its last message, need not be explored.

    `floor` is the greatest floor that the message has in any run of its thread on the timeline.
    """
    if not timeline.messages:
        return False
    last = timeline.messages[-1]
    if _conflict(last, message, caches):
        return False
    if last.kind == INVALIDATE and last.cpu != message.cpu:
        return message.kind != INVALIDATE or message.cpu < last.cpu
    if floor == len(timeline) or not _free(message, observed):
        return False
    return not _free(last, observed) or _rank(message) < _rank(last)


def _free(message: Message, observed: Observed) -> bool:
    return message.kind == CLEAN or (message.kind == STORE and not observed(message))


def _rank(message: Message) -> tuple[int, int, int]:
    """Return what orders two free messages; two that are alike conflict."""
    assert isinstance(message.address, int)
    return message.cpu, message.address, message.kind


def _conflict(one: Message, other: Message, caches: CacheType) -> bool:
    kinds = {one.kind, other.kind}
    if kinds <= {STORE, CLEAN}:
        return one.address == other.address
    if kinds == {CLEAN, INVALIDATE} or (kinds == {STORE, INVALIDATE} and caches is CacheType.DIC0_IDC1):
        return one.address == other.address or None in (one.address, other.address)
    return False
