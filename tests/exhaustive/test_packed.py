"""The compiled loop does what the Python one does: same states, transitions, findings and ends, and the same bounds."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.bench.flat_model import SCHEMES, FlatTask
from fuzzvm.exhaustive import search as search_module
from fuzzvm.exhaustive import verify
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.search import Search, Searched, search
from fuzzvm.exhaustive.space import Space
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.machine.ops import Address, Load, Steps
from fuzzvm.mitigations import registry
from fuzzvm.scenario import scale, shipped
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.clock import no_hang

np = pytest.importorskip("numpy")
pytest.importorskip("numba")

from fuzzvm.exhaustive import loop, packed  # noqa: E402


def both(system: System, hand_over: int = 1) -> Searched:
    """Search past errors in both ways, on one space, so that states have the same numbers; return what both found."""
    space = Space(system)
    compiled = search(space, Limits(), first_only=False, hand_over=hand_over)
    plain = search(space, Limits(), first_only=False, hand_over=None)
    assert compiled.complete
    assert replace(compiled, findings=()) == replace(plain, findings=())
    assert set(compiled.findings) == set(plain.findings)
    first = search(Space(system), Limits(), hand_over=hand_over)
    assert bool(first.findings) == bool(plain.findings)
    return plain


@pytest.mark.always
@pytest.mark.product
@pytest.mark.parametrize("mitigation", registry.shipped())
@pytest.mark.parametrize("scenario", [name for name in shipped.shipped() if name != "two-promoters"])
def test_on_what_ships(mitigation: str, scenario: str) -> None:
    both(System(shipped.get(scenario), registry.get(mitigation), "sc"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("slots", "walkers", "hand_over"), [(8, 3, 1), (24, 2, 5000), (40, 1, 10**9)])
def test_on_the_flat_model(scheme: str, slots: int, walkers: int, hand_over: int) -> None:
    found = both(FlatTask(slots, walkers, scheme), hand_over)
    assert bool(found.findings) == (scheme == "none" or (scheme == "static-key-enable" and walkers > 1))


def calls() -> st.SearchStrategy[tuple[object, ...]]:
    page = st.sampled_from([0, 2])
    vmap = st.builds(
        Vmap, page, st.sampled_from([1, 2]), st.sampled_from(["pte", "pmd"]), st.sampled_from(["rw", "rwx"])
    )
    walk = st.sampled_from([CatKernelPageTables(), CheckWxPages()])
    return st.lists(st.one_of(vmap, st.builds(Vunmap, page, st.just(2)), walk), min_size=1, max_size=2).map(tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(registry.shipped())),
    st.sampled_from(["arm64", "x86_64"]),
    st.lists(calls(), min_size=1, max_size=3),
    st.integers(1, 300),
)
def test_on_any_scenario(mitigation: str, arch: str, cpus: list[tuple[object, ...]], hand_over: int) -> None:
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 1, "pte"))
    scenario = Scenario(arch, "4K", 4, 2, setup, tuple(cpus))  # type: ignore[arg-type]
    system = System(scenario, registry.get(mitigation), "sc")
    if search(Space(system), Limits(max_states=30_000), first_only=False).complete:
        both(system, hand_over)


class SpinsForEver(Mitigation):
    """Waits, in a loop of plain loads, for a word that nobody writes: steps that lead back to the same state."""

    name = "spins-for-ever"
    word: Address

    def attach(self, boot: Boot) -> None:
        self.word = boot.word("never written")

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        seen = yield Load(self.word)
        while seen == 0:
            seen = yield Load(self.word)


def test_a_step_that_changes_nothing_is_a_transition_and_no_end() -> None:
    assert not both(System(shipped.get("pmd-promotion"), SpinsForEver, "sc")).ends


@pytest.mark.parametrize("bits", range(18, 34))
def test_fields_are_widened_until_a_word_is_full_and_then_python_goes_on(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "WORD_BITS", bits)
    both(FlatTask(12, 2), hand_over=20)


def test_words_are_widened_and_given_back_in_that_range(monkeypatch: pytest.MonkeyPatch) -> None:
    packings: list[packed.Packing] = []
    given_up = []

    class Counted(packed.Packing):
        def __init__(self, space: Space) -> None:
            try:
                super().__init__(space)
            except packed.TooWideError:
                given_up.append(True)
                raise
            packings.append(self)

    monkeypatch.setattr(packed, "Packing", Counted)
    for bits in range(18, 34):
        monkeypatch.setattr(packed, "WORD_BITS", bits)
        search(Space(FlatTask(12, 2)), Limits(), hand_over=20)
    assert len(packings) > 16, "no field was ever widened"
    assert given_up


def test_states_survive_packing() -> None:
    space = Space(System(scale.cpus(3), registry.get("static-key"), "sc"))
    search(space, Limits(max_states=20_000), hand_over=None)
    packing = packed.Packing(space)
    states = [space.start]
    for state in states:
        assert isinstance(state, int)
        if len(states) < 2000:
            states += [state + way.delta for _, way in space.steps(state)]
    assert packing.unpack(packing.pack(states)) == states  # type: ignore[arg-type]
    assert packing.unpack(packing.pack([])) == []


LARGE = (64, 2)


@pytest.fixture
def large() -> Callable[[Limits], Searched]:
    """Return a search that takes seconds in Python, handed over at once."""
    return lambda limits: search(Space(FlatTask(*LARGE)), limits, hand_over=1)


def test_bounds_are_said(large: Callable[[Limits], Searched]) -> None:
    for count in (1, 1000, 50_001):
        bounded = large(Limits(max_states=count))
        assert bounded.stopped == f"--max-states {count} reached"
        assert count <= bounded.states <= count + 3
    assert "--max-seconds 1e-09" in large(Limits(max_seconds=1e-9)).stopped
    assert "memory limit" in large(Limits(max_memory=1)).stopped


def test_a_set_that_would_not_fit_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzvm.exhaustive.limits.resident", lambda: 0)
    found = search(Space(FlatTask(*LARGE)), Limits(max_memory=2**20), hand_over=1)
    assert found.stopped == "memory limit of 1 MiB reached"
    assert found.states < 2**20 / 8


def test_running_out_of_memory_ends_a_search_with_what_it_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = np.zeros

    def no_more(shape: Any, kind: Any) -> Any:
        if np.prod(shape) > 50_000:
            raise MemoryError
        return zeros(shape, kind)

    monkeypatch.setattr(packed.np, "zeros", no_more)
    found = search(Space(FlatTask(*LARGE)), Limits(), hand_over=1)
    assert found.stopped == f"out of memory after {found.states} states"
    assert found.states > 1000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_is_heard_at_once() -> None:
    """Python drops what a signal handler raises in the middle of clearing up an object: then the next one counts."""

    class HeardError(Exception):
        pass

    def hear(number: int, frame: FrameType | None) -> None:
        raise HeardError

    # compiled, or loaded, before it is interrupted
    search(Space(FlatTask(8, 1)), Limits(), hand_over=1)
    before = signal.signal(signal.SIGALRM, hear)
    try:
        with pytest.raises(HeardError):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.4, 0.2)
                with no_hang():
                    search(Space(FlatTask(2000, 1)), Limits(), hand_over=1)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.njit

    def njit(*function: Any, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*function, **options)

    monkeypatch.setattr(loop, "njit", njit)

    def double(number: int) -> int:
        return 2 * number

    assert loop.compiled(double)(21) == 42


@pytest.mark.parametrize("broken", [False, True])
def test_without_the_extra_python_does_it_all(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    system = FlatTask(*LARGE)
    compiled = verify(system)

    def refuse(search: Search) -> bool:
        assert broken, "was asked for"
        return False

    monkeypatch.setattr(Search, "_go_on", refuse)
    monkeypatch.setattr(search_module, "has_compiled", lambda: broken)
    plain = verify(system)
    assert compiled.states > search_module.HAND_OVER
    assert replace(compiled, seconds=0.0) == replace(plain, seconds=0.0)
