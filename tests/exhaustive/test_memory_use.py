"""Memory of a process and of those beside it, and the limits on it."""

from __future__ import annotations

import gc
import multiprocessing
from multiprocessing.connection import Connection

import pytest

from fuzzvm.exhaustive.limits import Limits, StoppedError, Watch
from fuzzvm.exhaustive.memory_use import LeftBehind, resident, resident_beside
from fuzzvm.scenario import shipped
from fuzzvm.verify.matrix import Bounds, Cell, verify_all

MIB = 1 << 20
BALLAST = 200 * MIB


def _hold(connection: Connection) -> None:
    held = bytearray(BALLAST)
    # pages that nobody has written are nobody's
    held[::4096] = b"x" * len(held[::4096])
    connection.send(None)
    connection.recv()


def _beside(connection: Connection) -> None:
    connection.send(resident_beside())


def test_what_siblings_have_is_counted() -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    holder = context.Process(target=_hold, args=(there,), daemon=True)

    def asked() -> int:
        asking = context.Process(target=_beside, args=(there,), daemon=True)
        asking.start()
        found: int = here.recv()
        asking.join()
        return found

    before = asked()
    holder.start()
    here.recv()
    try:
        assert asked() - before > BALLAST * 0.9
    finally:
        here.send(None)
        holder.join()
    assert 0 < before < asked() + BALLAST / 2


def _leave(size: int) -> None:
    """Leave garbage that only a collection finds."""
    held: list[object] = [bytearray(size)]
    held.append(held)
    memory = held[0]
    assert isinstance(memory, bytearray)
    memory[::4096] = b"x" * len(memory[::4096])


def test_what_is_left_behind_is_collected_once_it_is_a_lot() -> None:
    gc.collect()
    gc.disable()
    try:
        left_behind, before = LeftBehind(), resident()
        _leave(BALLAST // 4)
        assert not left_behind.release(BALLAST // 2)
        _leave(BALLAST // 2)
        assert left_behind.release(BALLAST // 2)
        assert resident() < before + BALLAST // 8
        assert not left_behind.release(BALLAST // 2)
    finally:
        gc.enable()


@pytest.mark.parametrize("jobs", [1, 2])
def test_cells_verified_here_leave_the_collector_on(jobs: int) -> None:
    cells = [Cell("none", shipped.get("pmd-promotion"), "sc")] * 3
    assert len(list(verify_all(cells, Bounds(Limits()), jobs))) == 3
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("mine", "beside", "stopped"),
    [(99, 900, False), (100, 399, False), (100, 400, True), (499, 0, False), (500, 0, True)],
)
def test_a_share_is_everybodys_and_the_rest_goes_to_who_needs_it(
    mine: int, beside: int, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzzvm.exhaustive.limits.resident", lambda: mine * MIB)
    monkeypatch.setattr("fuzzvm.exhaustive.limits.resident_beside", lambda: beside * MIB)
    limits = Limits(max_memory=100 * MIB, pooled_memory=500 * MIB)
    if not stopped:
        Watch(limits).look(1)
        return
    with pytest.raises(StoppedError, match="memory limit of 500 MiB for all processes reached after 1 states"):
        Watch(limits).look(1)
