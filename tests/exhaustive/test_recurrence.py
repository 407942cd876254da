"""Which local states may lie on a cycle of states: all that do, and of a worker's loop none."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

from fuzzvm.exhaustive import recurrence, verify
from fuzzvm.exhaustive.cycles import on_cycle
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.recurrence import recurrent
from fuzzvm.exhaustive.reduced_search import search_reduced
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import SHARED_BITS, Space
from fuzzvm.machine.errors import NO_PROGRESS
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.exhaustive.looping_programs import PROGRAMS, Graph, Line, LoopingTask, components, graph
from tests.exhaustive.reduction import reduce_at_once

MEMORIES = ["sc", "tso", "arm64"]
MOST = 400
SOME = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

WORKER = [Line("take", 0, 1, 0)]
"""Takes what is there, for as long as anything comes."""
PRODUCER = [Line("put", 0, -1, 0), Line("put", 0, -1, 0)]
TURNER = [Line("turn", 0, 0, 0), Line("turn", 0, 2, 0)]
POLLER = [Line("load", 0, 0, 0)]
PING = [Line("take", 0, 1, 1), Line("put", 1, 0, 0)]
PONG = [Line("put", 0, 0, 1), Line("take", 1, 1, 0)]


def really_recurrent(space: Space, whole: Graph) -> list[set[int]]:
    """Return the local states in which each CPU takes a step around a cycle of states."""
    component = components([[target for _, target in onward] for onward in whole.following])
    found: list[set[int]] = [set() for _ in space.lanes]
    for place, onward in enumerate(whole.following):
        for cpu, target in onward:
            if cpu is not None and component[place] == component[target]:
                found[cpu].add(space.lanes[cpu].local(whole.states[place]))
    return found


def whole_space(memory: str, programs: list[list[Line]]) -> tuple[Space, Graph]:
    space = Space(LoopingTask(memory, programs))
    whole = space.settled(lambda: graph(space, MOST))
    if whole is None:
        raise UnsatisfiedAssumption
    return space, whole


@SOME
@given(st.sampled_from(MEMORIES), PROGRAMS)
def test_nothing_that_recurs_is_missed(memory: str, programs: list[list[Line]]) -> None:
    space, whole = whole_space(memory, programs)
    for said, really in zip(recurrent(space.automata, space.values), really_recurrent(space, whole), strict=True):
        assert really <= said


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(
    ("programs", "cpus"),
    [
        ([WORKER, PRODUCER], []),
        ([WORKER, PRODUCER, PRODUCER], []),
        ([TURNER, PRODUCER], [0]),
        ([POLLER, PRODUCER], [0]),
        ([PING, PONG], [0, 1]),
        # each takes what the other has put, and nobody begins
        ([PING, [*PONG[1:], PONG[0]._replace(goto=0)]], []),
    ],
)
def test_who_goes_around_a_cycle(memory: str, programs: list[list[Line]], cpus: list[int]) -> None:
    space, whole = whole_space(memory, programs)
    assert [cpu for cpu, its_own in enumerate(really_recurrent(space, whole)) if its_own] == cpus
    assert [cpu for cpu, its_own in enumerate(recurrent(space.automata, space.values)) if its_own] == cpus


def test_a_loop_that_waits_for_others_is_a_cycle_of_the_automaton_alone() -> None:
    """So that the test above says something: the worker's automaton has a cycle."""
    space, _ = whole_space("sc", [WORKER, PRODUCER])
    nodes = space.automata[0].nodes
    assert any(on_cycle([[edge.target.number for edge in node.edges.values() if edge.target] for node in nodes]))


def test_where_there_are_too_many_values_the_automaton_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    space, _ = whole_space("sc", [WORKER, PRODUCER])
    monkeypatch.setattr(recurrence, "MOST_PAIRS", 0)
    assert recurrent(space.automata, space.values)[0]


@pytest.mark.parametrize("mitigation", ["rcu-free", "deferred-free"])
def test_threads_of_the_kernel_take_part_in_no_cycle(mitigation: str) -> None:
    space = Space(System(shipped.get("pmd-promotion"), registry.get(mitigation), "sc"))
    search(space, Limits())
    assert not any(recurrent(space.automata, space.values))


@SOME
@given(PROGRAMS)
def test_the_reduced_search_has_the_same_ends(programs: list[list[Line]]) -> None:
    space, whole = whole_space("sc", programs)
    ends = {whole.states[end] for end in whole.ends}
    # a state whose CPUs have all returned is an end that is checked; any other is a deadlock
    if all(end >> SHARED_BITS == 0 for end in ends):
        assert search_reduced(space, Limits(), first_only=False).ends == ends


@settings(SOME, max_examples=30)
@given(st.sampled_from(MEMORIES), PROGRAMS)
def test_a_run_without_end_is_found_where_there_is_one(memory: str, programs: list[list[Line]]) -> None:
    _, whole = whole_space(memory, programs)
    before: list[list[int]] = [[] for _ in whole.states]
    for place, onward in enumerate(whole.following):
        for _, target in onward:
            before[target].append(place)
    ending, todo = set(whole.ends), list(whole.ends)
    while todo:
        for place in before[todo.pop()]:
            if place not in ending:
                ending.add(place)
                todo.append(place)
    stuck = any(whole.states[end] >> SHARED_BITS for end in whole.ends)
    with pytest.MonkeyPatch.context() as patch:
        reduce_at_once(patch)
        verdict = verify(LoopingTask(memory, programs))
    assert not verdict.stopped
    if stuck:
        assert verdict.failure is not None
    else:
        failed = len(ending) < len(whole.states)
        assert (verdict.failure.error if verdict.failure else None) == (NO_PROGRESS if failed else None)
