"""Which orders of two adjacent messages need not both be explored.

Two timelines that differ in the order of two neighbours m, w of different threads stand for the same executions
unless the order matters to one of the two or to something that takes place between them: an event at m's timestamp
with an edge of ordered-before to w. What orders events before a message is known (Arm ARM B2.3, aarch64.cat):

- w's own thread orders its earlier events before w; they are in w's floor;
- a load by another thread that reads something older than store w (from-reads);
- a fetch before IC w (IC-after) or before COMPLETE w (IC-ob);
- the same location: store and store, store and DC, and for IC-ca the order of DC and IC.

So a DC, or a store to a location that no other thread loads, can move to the front of m if its floor lies before m;
these are called free here. And an IC can move behind any m of another thread except a DC of the same location: a
fetch between the two that was after the IC may count as before it, since what IC-ob asks in return (earlier fetches
are before the IC's completion) already follows where the fetch is ordered before m.

Free messages are explored as early, IC as late as they can be; ties go to the lower thread. Each swap reduces the
number of pairs in the wrong order, so that every timeline has an equivalent one that is explored.
"""

from __future__ import annotations

from collections.abc import Callable

from fuzzvm.machine.memory.arm64.timeline import CLEAN, INVALIDATE, STORE, Message, Timeline

LoadedByOthers = Callable[[Message], bool]
"""Whether a thread other than that of a store loads the store's location."""


def redundant(timeline: Timeline, message: Message, floor: int, loaded_by_others: LoadedByOthers) -> bool:
    """Return whether a message at the end of a timeline, after its last message, need not be explored.

    `floor` is the greatest floor that the message has in any run of its thread on the timeline.
    """
    if not timeline.messages:
        return False
    last = timeline.messages[-1]
    if last.cpu == message.cpu or _conflict(last, message):
        return False
    if last.kind == INVALIDATE:
        return message.kind != INVALIDATE or message.cpu < last.cpu
    if floor == len(timeline) or not _free(message, loaded_by_others):
        return False
    return message.cpu < last.cpu or not _free(last, loaded_by_others)


def _free(message: Message, loaded_by_others: LoadedByOthers) -> bool:
    return message.kind == CLEAN or (message.kind == STORE and not loaded_by_others(message))


def _conflict(one: Message, other: Message) -> bool:
    kinds = {one.kind, other.kind}
    if kinds <= {STORE, CLEAN}:
        return one.address == other.address
    if kinds == {CLEAN, INVALIDATE}:
        return one.address == other.address or None in (one.address, other.address)
    return False
