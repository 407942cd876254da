"""A search that is split over processes comes to what one process comes to, and notices where it would not."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.explore.exhaustive import Limits, Verdict, slices, split_task, verify, whole
from fuzzvm.explore.exhaustive.needs import DifferentProgramsError
from fuzzvm.explore.exhaustive.prefixes import Prefixes
from fuzzvm.explore.exhaustive.reduced_search import foresee, search_reduced
from fuzzvm.explore.exhaustive.search import Searched, search
from fuzzvm.explore.exhaustive.slices import Slice
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.explore.exhaustive.split import Split
from fuzzvm.explore.exhaustive.split_task import Explored, explore
from fuzzvm.explore.matrix import Bounds, Cell
from fuzzvm.explore.processes import Caller, T, call_all
from fuzzvm.explore.same_processes import SameProcesses
from fuzzvm.explore.split_matrix import verify_split
from fuzzvm.machine.errors import NO_PROGRESS
from fuzzvm.machine.memory.arm64.adapter import Arm64
from fuzzvm.machine.ops import Order
from fuzzvm.machine.schedule import Schedule
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.explore.campaigns.killing import alive, children
from tests.explore.small_programs import PATCHES, RECIPES, Recipe, programs, small_system
from tests.explore.test_exhaustive import SpinsForEver, SpinsUntilUnlocked
from tests.explore.test_weak_reductions import own_ranges

BANDS = 5
CELLS = [
    ("static-key", "pmd-promotion", "arm64", "safe"),
    ("none", "pud-promotion", "arm64", "bug"),
    ("deferred-free", "x86-pmd-promotion", "tso", "bug"),
    ("rcu-free", "pmd-promotion", "arm64", "safe"),
    ("ptdump-locks-init-mm", "three-levels", "sc", "bug"),
    ("vmap-trylock", "two-walkers", "tso", "safe"),
    ("mmap-lock-always", "check-wx", "sc", "safe"),
]


@dataclass(frozen=True)
class Small:
    """A source of small programs."""

    memory: str
    recipes: tuple[tuple[Recipe, ...], ...]

    def system(self) -> System:
        return small_system(self.memory, [list(program) for program in self.recipes])


@dataclass(frozen=True)
class Own:
    """A source with a mitigation that has no name."""

    mitigation: type[Any]
    scenario: Scenario
    memory: str

    def system(self) -> System:
        return System(self.scenario, self.mitigation, self.memory)


def cell(mitigation: str, scenario: str, memory: str) -> Cell:
    return Cell(mitigation, shipped.get(scenario), memory)


def split(source: whole.Source, *, call: Caller = call_all, jobs: int = 1, **more: Any) -> Searched:
    """Return what a search past all errors finds, in this process unless it is said otherwise."""
    limits = more.pop("limits", Limits())
    found = Split(source, jobs, call, **{"bands": BANDS, **more}).search(limits, first_only=False)
    assert found is not None
    return found


def unsplit(source: whole.Source, limits: Limits | None = None) -> Searched:
    """Return what a search without any reduction finds in one process."""
    space = Space(source.system())
    foresee(space, Limits())
    return space.settled(lambda: search(space, limits or Limits(), first_only=False))


def agree(source: whole.Source, most: int | None = None) -> bool:
    """Compare split searches with whole ones; return whether the system is that small."""
    one = unsplit(source, Limits(max_states=most))
    if one.stopped:
        return False
    many = split(source, reduce=False)
    assert many.complete
    assert (many.states, many.transitions) == (one.states, one.transitions)
    assert {*many.findings} == {*one.findings}
    reduced, at_once = split(source), split(source, bands=1)
    assert (reduced.states, reduced.transitions) == (at_once.states, at_once.transitions)
    assert {*reduced.findings} == {*at_once.findings}
    assert bool(reduced.findings) == bool(one.findings)
    return True


def same(one: Verdict, other: Verdict) -> None:
    """Assert that two verdicts say the same of the system."""
    assert (one.verdict, one.failure, one.schedule) == (other.verdict, other.failure, other.schedule)
    assert (one.complete, one.stopped) == (other.complete, other.stopped)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split small searches too."""
    monkeypatch.setattr("fuzzvm.explore.exhaustive.verdict.ALONE", 1)


@pytest.mark.parametrize(("mitigation", "scenario", "memory", "verdict"), CELLS)
@pytest.mark.usefixtures("at_once")
def test_two_processes_say_what_one_says(mitigation: str, scenario: str, memory: str, verdict: str) -> None:
    asked = cell(mitigation, scenario, memory)
    ((_, run),) = verify_split([asked], Bounds(Limits()), 2)
    assert run.verdict.verdict == verdict
    same(run.verdict, verify(asked.system()))
    assert agree(asked)
    one = split(asked)
    with SameProcesses() as call:
        two = split(asked, call=call, jobs=2)
    assert (two.states, two.transitions) == (one.states, one.transitions)


def test_the_reduced_search_is_the_one_of_one_process() -> None:
    """Where that looks at no state twice, as its order of looking leaves no trace then."""
    for memory in ("tso", "arm64"):
        asked = cell("static-key", "pud-promotion", memory)
        space = Space(asked.system())
        foresee(space, Limits())
        one = space.settled(lambda space=space: search_reduced(space, Limits(), first_only=False))  # type: ignore[misc]
        assert one.passes == 1
        many = split(asked)
        assert (many.states, many.transitions) == (one.states, one.transitions)


def as_source(memory: str, lists: Sequence[Sequence[Recipe]]) -> Small:
    return Small(memory, tuple(map(tuple, lists)))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["sc", "tso", "arm64"]), st.one_of(programs(RECIPES, 9), programs(PATCHES, 9)))
def test_any_small_programs(memory: str, lists: list[list[Recipe]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "LEAST", 1)
        agree(as_source(memory, lists), 3000)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(registry.shipped())),
    st.sampled_from([("arm64", "arm64"), ("arm64", "sc"), ("x86_64", "tso")]),
    own_ranges(),
)
def test_any_scenario(mitigation: str, machine: tuple[str, str], cpus: tuple[tuple[Any, ...], ...]) -> None:
    arch, memory = machine
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 2, "pte"), Vunmap(2, 2))
    agree(Cell(mitigation, Scenario(arch, "4K", 4, 2, setup, cpus), memory), 3000)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from([(0,), (1,), (1, 2), (3,)]), max_size=6).map(tuple)))
def test_prefixes_are_written_and_read(schedules: list[Schedule]) -> None:
    read = []
    steps: Schedule = ()
    for alike, more in pickle.loads(pickle.dumps(Prefixes.of(schedules))).read():
        steps = (*steps[:alike], *more)
        read.append(steps)
    assert read == sorted(schedules)


# What a task returns depends on its arguments alone


@dataclass
class Repeating:
    """Makes each call twice, last ones first, in a process that has forgotten everything, and keeps the second."""

    calls: int = 0

    def __call__(
        self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
    ) -> Generator[tuple[int, T], None, None]:
        for index in reversed(range(len(arguments))):
            self.calls += 1
            first, second = [self._called(function, arguments[index]) for _ in range(2)]
            assert first == second
            yield index, second

    @staticmethod
    def _called(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        whole.forget()
        return function(*pickle.loads(pickle.dumps(arguments)))


def test_a_task_that_is_run_again_changes_nothing() -> None:
    asked = cell("static-key", "check-wx", "arm64")
    repeating = Repeating()
    again, once = split(asked, call=repeating, bands=3), split(asked, bands=3)
    assert repeating.calls > 5
    assert (again.states, again.transitions) == (once.states, once.transitions)


def test_no_task_depends_on_the_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cell("none", "pud-promotion", "arm64")
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        def elsewhere(
            function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
        ) -> Generator[tuple[int, T], None, None]:
            futures = [pool.submit(function, *values) for values in arguments]
            for index, future in enumerate(futures):
                yield index, future.result()

        there, here = split(asked, call=elsewhere, bands=3), split(asked, bands=3)
    assert (there.states, there.transitions, {*there.findings}) == (here.states, here.transitions, {*here.findings})


def test_processes_that_know_different_programs_are_told_apart() -> None:
    question = whole.Question(cell("none", "pmd-promotion", "sc"), BANDS, reduce=True)
    other = whole.Whole(whole.Question(cell("static-key", "pmd-promotion", "sc"), BANDS, reduce=True), Limits())
    start = other.slices.of(other.space.start)  # type: ignore[arg-type]
    with pytest.raises(DifferentProgramsError, match="different programs"):
        explore(question, other.summary, start, [Prefixes.of([()])], Limits(), True, False)
    whole.forget()


def test_a_lesson_that_is_not_learnt_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "FORESEEN_STATES", 60)
    monkeypatch.setattr(whole.Whole, "_learn", lambda self, schedule, cpu: None)
    with pytest.raises(DifferentProgramsError, match="does not do the same every time"):
        split(cell("static-key", "pmd-promotion", "sc"), reduce=False)


def test_what_is_not_known_when_it_begins_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory in ("sc", "arm64"):
        asked = cell("static-key", "pmd-promotion", memory)
        learnt = unsplit(asked)
        with monkeypatch.context() as patch:
            patch.setattr(whole, "FORESEEN_STATES", 60)
            found = split(asked, reduce=False)
        assert found.passes > 1
        assert (found.states, found.transitions) == (learnt.states, learnt.transitions)


# Runs that never end


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.usefixtures("at_once")
def test_a_run_that_never_ends_is_found(memory: str) -> None:
    for mitigation, error in ((SpinsForEver, NO_PROGRESS), (SpinsUntilUnlocked, None)):
        source = Own(mitigation, shipped.get("pmd-promotion"), memory)
        many = verify(source.system(), elsewhere=Split(source, 1, call_all, bands=BANDS).search)
        same(many, verify(source.system()))
        assert (many.failure.error if many.failure else None) == error


# Bounds


@pytest.mark.parametrize("most", [1, 50, 300])
def test_a_bound_on_states_is_one(most: int) -> None:
    asked = cell("static-key", "pud-promotion", "arm64")
    found = split(asked, reduce=False, limits=Limits(max_states=most))
    assert found.stopped == f"--max-states {most} reached"
    assert not found.complete
    assert most <= found.states <= most + 20


def test_a_bound_that_is_not_reached_cuts_nothing() -> None:
    """Though the share of some slice is less than it has."""
    asked = cell("static-key", "pud-promotion", "arm64")
    all_of_it = split(asked, reduce=False)
    bounded = split(asked, reduce=False, limits=Limits(max_states=all_of_it.states + 1))
    assert (bounded.states, bounded.stopped) == (all_of_it.states, "")


def test_bounds_on_time_and_memory_are_said() -> None:
    asked = cell("static-key", "pud-promotion", "arm64")
    assert Split(asked, 1, call_all).search(Limits(max_seconds=1e-9)) is None
    question = whole.Question(asked, BANDS, reduce=True)
    known = whole.known(question)
    start = known.slices.of(known.space.start)  # type: ignore[arg-type]

    def bounded(
        function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
    ) -> Generator[tuple[int, T], None, None]:
        for index, (*values, _, first, endless) in enumerate(arguments):
            yield index, function(*values, Limits(max_seconds=1e-9, asked_seconds=7), first, endless)

    cut_in_time = split(asked, call=bounded, bands=1)
    assert cut_in_time.stopped.startswith("--max-seconds 7 reached after ")
    assert not cut_in_time.complete
    cut = explore(question, known.summary, start, [Prefixes.of([()])], Limits(max_memory=1), True, False)
    assert cut.stopped.startswith("memory limit of 0 MiB reached")
    whole.forget()


def test_processes_stay_from_call_to_call_and_end() -> None:
    with SameProcesses() as call:
        pids = {pid for _ in range(3) for _, pid in call(process_of, [()] * 4, 2)}
        assert 1 <= len(pids) <= 2
        with pytest.raises(ZeroDivisionError):
            list(call(divmod, [(1, 1), (1, 0)], 2))
    assert not pids & {process.pid for process in multiprocessing.active_children()}


def process_of() -> int | None:
    return multiprocessing.current_process().pid


def test_a_process_that_is_killed_is_said() -> None:
    with SameProcesses() as call, pytest.raises(BrokenProcessPool):
        list(call(kill_oneself, [()] * 2, 2))


@dataclass
class Killing:
    """Ends one of the processes from outside in each set of calls, when the first of them is done."""

    processes: SameProcesses
    killed: int = 0

    def __call__(
        self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
    ) -> Generator[tuple[int, T], None, None]:
        for number, (index, result) in enumerate(self.processes(function, arguments, jobs)):
            if number == 0:
                multiprocessing.active_children()[0].kill()
                self.killed += 1
            yield index, result


def test_a_process_that_is_killed_is_replaced_and_changes_nothing() -> None:
    asked = cell("static-key", "pud-promotion", "arm64")
    once = split(asked, bands=3)
    with SameProcesses() as processes:
        killing = Killing(processes)
        again = split(asked, call=killing, jobs=2, bands=3)
    assert killing.killed > 3
    assert (again.states, again.transitions, again.passes) == (once.states, once.transitions, once.passes)
    assert not multiprocessing.active_children()


ORPHANS = """
import time
from fuzzvm.explore.same_processes import SameProcesses
with SameProcesses() as call:
    # one is at work, and one waits for more
    list(call(time.sleep, [(0,), (1000,)], 2))
"""


def test_processes_do_not_outlive_who_started_them() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANS]) as parent:
        until = time.monotonic() + 60
        while len(workers := children(parent.pid)) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        parent.kill()
    while any(map(alive, workers)):
        assert time.monotonic() < until
        time.sleep(0.02)


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# What would be wrong is noticed


def loses(source: whole.Source) -> None:
    with pytest.raises(AssertionError):
        agree(source)


STALE: Small = as_source(
    "arm64",
    [
        [("store", 0, 1, None), ("store", 1, 1, Order.RELEASE), ("load", 2, None, None)],
        [("load", 1, None, Order.ACQUIRE), ("load", 0, None, None), ("store", 2, 1, None)],
    ],
)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "LEAST", 1)
    assert agree(STALE)


@pytest.mark.usefixtures("narrow")
def test_it_is_noticed_if_a_state_at_the_border_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = split_task._SliceSearch._leaving

    def all_but_one(self: split_task._SliceSearch) -> Iterator[tuple[Slice, Prefixes]]:
        self.exits.pop(next(iter(self.exits), 0), None)
        return leaving(self)

    monkeypatch.setattr(split_task._SliceSearch, "_leaving", all_but_one)
    loses(STALE)


@pytest.mark.usefixtures("narrow")
def test_it_is_noticed_if_runs_come_back_to_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_bands", lambda still, weights, most: [number % 2 for number in range(len(still))])
    loses(STALE)


@pytest.mark.usefixtures("narrow")
def test_it_is_noticed_if_a_slice_is_left_and_the_state_is_kept_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then states are counted in two slices."""
    found = split_task._SliceSearch._found

    def kept(self: split_task._SliceSearch, following: int, state: int, cpu: int, order: list[int]) -> None:
        found(self, following, state, cpu, order)
        if following not in self.parents:
            self.parents[following] = state
            order.append(following)

    monkeypatch.setattr(split_task._SliceSearch, "_found", kept)
    loses(STALE)


def test_it_is_noticed_if_nobody_says_what_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cell("static-key", "pmd-promotion", "arm64")
    monkeypatch.setattr(whole, "FORESEEN_STATES", 60)
    monkeypatch.setattr(whole.Whole, "is_known", lambda self, cpu, local: True)
    assert split(asked, reduce=False).states < unsplit(asked).states


def test_it_is_noticed_if_states_that_differ_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that forgot a part of what it compares states by would come to another number."""
    asked = cell("static-key", "pmd-promotion", "arm64")
    one = unsplit(asked).states
    state = Arm64.state
    for part in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(Arm64, "state", lambda self, part=part: (*state(self)[:part], (), *state(self)[part + 1 :]))
            assert split(asked, reduce=False).states != one


def test_it_is_noticed_if_a_trapped_state_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Own(SpinsForEver, shipped.get("pmd-promotion"), "sc")
    monkeypatch.setattr(split_task._SliceSearch, "_trapped", lambda self: False)
    monkeypatch.setattr("fuzzvm.explore.exhaustive.verdict.ALONE", 1)
    assert verify(source.system(), elsewhere=Split(source, 1, call_all).search).failure is None


def test_what_a_slice_returns_can_be_sent() -> None:
    sent = Explored(1, 2, 3, exits=(((0, 1), Prefixes.of([((0,), (1, 2))])),))
    assert pickle.loads(pickle.dumps(sent)) == sent
