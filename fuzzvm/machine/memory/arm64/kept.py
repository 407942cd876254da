"""The parts of AArch64 memory as JSON data and back, for a search that is kept on disk.

Values stand as numbers, by `number` and `value`. What is read may come from anywhere: it is checked as far as it could
make a memory look beyond its timeline, and ValueError says that it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzzvm.machine.memory.arm64.local import Local, Pending
from fuzzvm.machine.memory.arm64.timeline import CLEAN, COMPLETE, INVALIDATE, STORE, Message, Timeline
from fuzzvm.machine.memory.arm64.views import LocationViews, Views
from fuzzvm.machine.ops import Order, Value

_SCALARS = tuple(name for name in Views.__slots__ if name not in ("cells", "frozen", "invalidations"))
_ORDERS = tuple(Order)


def data_of(part: Timeline | Local, number: Callable[[Value], int]) -> Any:
    """Return a timeline, or the part of a CPU, as data."""
    if isinstance(part, Timeline):
        messages = [
            [kind, cpu, address, number(value) if kind == STORE else value]
            for kind, cpu, address, value in part.messages
        ]
        return [[[address, number(value)] for address, value in part.initial.items()], messages]
    views = part.views
    return [
        [getattr(views, name) for name in _SCALARS],
        views.invalidations,
        [[address, *cell] for address, cell in views.cells.items()],
        [
            [one.kind, one.address, number(one.value), _ORDERS.index(one.order), one.epoch, one.dependency, one.data]
            for one in part.pending
        ],
        part.epoch,
        list(part.learned.items()),
        sorted(part.loads),
        sorted(part.overtaken),
        list(part.tokens.items()),
    ]


def part_of(data: Any, value: Callable[[int], Value]) -> Timeline | Local:
    """Return what `data_of` was given. Raises ValueError, TypeError, IndexError for what is none."""
    if len(data) == 2:
        initial, rows = data
        messages = []
        for kind, cpu, address, written in rows:
            messages.append(Message(kind, _count(cpu), address, _written(kind, written, value)))
            _is(kind == COMPLETE or type(address) is int or (kind == INVALIDATE and address is None))
        return Timeline.of({_count(address): value(written) for address, written in initial}, messages)
    scalars, invalidations, cells, pending, epoch, learned, loads, overtaken, tokens = data
    local = Local(Views())
    for name, at in zip(_SCALARS, scalars, strict=True):
        setattr(local.views, name, _count(at))
    local.views.invalidations = tuple(map(_count, invalidations))
    local.views.cells = {address: LocationViews(*map(_count, cell)) for address, *cell in cells}
    local.pending = tuple(
        Pending(kind, _count(address), value(written), _ORDERS[order], *map(_count, rest))
        for kind, address, written, order, *rest in pending
    )
    _is(all(one.kind in (STORE, CLEAN, INVALIDATE) for one in local.pending))
    local.epoch = _count(epoch)
    local.learned = {_count(number): _count(at) for number, at in learned}
    local.loads, local.overtaken = frozenset(map(_count, loads)), frozenset(map(_count, overtaken))
    local.tokens = {_count(token): _count(at) for token, at in tokens}
    return local


def latest(local: Local) -> int:
    """Return the latest place on a timeline that the part of a CPU names."""
    views = local.views
    places: list[int] = [*[getattr(views, name) for name in _SCALARS], *views.invalidations]
    places += [at for cell in views.cells.values() for at in cell]
    places += [at for one in local.pending for at in (one.dependency, one.data)]
    return max((*places, *local.learned.values(), *local.tokens.values()))


def _written(kind: int, written: Any, value: Callable[[int], Value]) -> Any:
    if kind == STORE:
        return value(written)
    if kind == COMPLETE:
        return tuple(map(_count, written))
    _is(kind in (CLEAN, INVALIDATE) and written in (None, 0))
    return written


def _count(number: int) -> int:
    _is(type(number) is int and number >= 0)
    return number


def _is(right: bool) -> None:
    if not right:
        raise ValueError("no part of a memory")
