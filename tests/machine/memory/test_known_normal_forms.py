"""Normal forms that are looked up are those that are made anew, on random programs and on chosen ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive.stepped import every_way
from fuzzvm.machine.known import Known
from fuzzvm.machine.memory import Choose
from fuzzvm.machine.memory.arm64.adapter import Arm64
from fuzzvm.machine.memory.arm64.local import Local
from fuzzvm.machine.memory.arm64.normal_form import NormalForms
from fuzzvm.machine.memory.arm64.timeline import Timeline
from fuzzvm.machine.ops import Await, Barrier, Fence, Free, InterruptAll, Load, Rmw, Store
from tests.exhaustive.small_programs import Put
from tests.machine.memory.test_normal_form_stepwise import (
    ADDRESSES,
    PATCHER,
    POINTERS,
    READER,
    WRITER,
    Step,
    lists,
    needs,
    perform,
    points_to,
)

MOST = 300
"""States that are looked at of one system of programs."""


def look_up_and_make(programs: Sequence[Sequence[Step]]) -> None:
    """Assert of the states of a system that a normal form is the same whatever was asked for before."""
    cpus = len(programs)
    wanted = [[needs(steps[place:]) for place in range(len(steps) + 1)] for steps in programs]
    start = Arm64(cpus)
    start.points_to = points_to
    seen = set()
    todo = [(start, (0,) * cpus)]
    while todo and len(seen) < MOST:
        memory, places = todo.pop()
        if (memory.parts(), places) in seen:
            continue
        seen.add((memory.parts(), places))
        steps: list[tuple[tuple[int, ...], Callable[[Choose, Arm64], Any]]] = [
            (places, lambda choose, memory, agent=agent: memory.step(agent, choose))  # type: ignore[misc]
            for agent in memory.agents()
        ]
        for cpu, place in enumerate(places):
            if place == len(programs[cpu]):
                continue
            step = programs[cpu][place]
            if isinstance(step, Await) and not memory.visible(cpu, step.address):
                continue
            after = (*places[:cpu], place + 1, *places[cpu + 1 :])
            steps.append((after, lambda choose, memory, cpu=cpu, step=step: perform(memory, cpu, step, choose)))  # type: ignore[misc]
        for after, run in steps:
            for _, looked_up, _ in every_way(run, memory.copy):
                made = looked_up.copy()
                made.compared_by(lambda value: value)
                for one in (looked_up, made):
                    one.normalise([wanted[cpu][place] for cpu, place in enumerate(after)])
                assert looked_up.state() == made.state()
                todo.append((looked_up, after))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.tuples(lists(WRITER), lists(READER)),
        st.tuples(lists(WRITER, 2), lists(WRITER, 2), lists(READER, 3)),
        st.tuples(lists(PATCHER), lists(PATCHER)),
    )
)
def test_what_is_looked_up_is_what_is_made(programs: tuple[list[Step], ...]) -> None:
    look_up_and_make(programs)


FIRST, SECOND, THIRD = ADDRESSES[0], ADDRESSES[2], ADDRESSES[4]
IN_ORDER = Fence(Barrier.DMB_ISHST)
POINTED_TO = [Store(THIRD, 1), IN_ORDER, Store(FIRST, POINTERS[1]), Store(SECOND, POINTERS[2])]
CHOSEN: list[list[list[Step]]] = [
    [[Store(FIRST, 1), IN_ORDER, Store(SECOND, 1)], [Load(SECOND), Load(FIRST), Load(SECOND)]],
    [[Store(FIRST, 1), IN_ORDER, Store(SECOND, 1)], [Load(SECOND), Fence(Barrier.DMB_ISHLD), Load(FIRST)]],
    [[Load(FIRST), Store(SECOND, 1)], [Load(SECOND), Free(POINTERS[0])]],
    [[Rmw(FIRST, Put(1)), Store(SECOND, 2)], [Rmw(FIRST, Put(2)), Load(SECOND), InterruptAll(), Load(SECOND)]],
    [[*POINTED_TO], [Load(FIRST), Load(SECOND), Load(THIRD)]],
    [[Store(THIRD, 1), IN_ORDER, Rmw(FIRST, Put(POINTERS[2]))], [Rmw(FIRST, Put(1))], [Load(FIRST), Load(THIRD)]],
]


def test_what_is_looked_up_is_what_is_made_of_chosen_programs() -> None:
    for programs in CHOSEN:
        look_up_and_make(programs)
        look_up_and_make(programs[::-1])


def _any_needs(self: NormalForms, needs: Any) -> Any:
    for known in self._wanted.values():
        return needs, known
    return _wanted_by(self, needs)


def _without(position: int) -> Any:
    """Return a look-up that leaves out one component of each key."""

    def get(self: Known[Any, Any], key: Any) -> Any:
        if not isinstance(key, tuple):
            return None
        left = (*key[:position], *key[position + 1 :])
        return next((self[known] for known in self if (*known[:position], *known[position + 1 :]) == left), None)

    return get


_wanted_by = NormalForms._wanted_by
_local_key = Local.key
INCOMPLETE: list[tuple[object, str, object]] = [
    (Timeline, "shape_key", lambda self: len(self.messages)),
    (Timeline, "key", lambda self, key_of: self.shape_key()),
    (NormalForms, "_wanted_by", _any_needs),
    (Local, "key", lambda self, key_of: _local_key(self, key_of)[1:]),
    *[(Known, "get", _without(position)) for position in range(5)],
]


@pytest.mark.parametrize(("where", "name", "wrong"), INCOMPLETE)
def test_it_is_noticed_if_a_key_is_not_complete(
    where: object, name: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, wrong, raising=False)
    with pytest.raises((AssertionError, KeyError, IndexError)):
        test_what_is_looked_up_is_what_is_made_of_chosen_programs()
