"""What is done on an interactive system is an ordinary scenario and schedule: the same run, to the digest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.corpus.format import Expectation, TestCase, parse
from fuzzvm.corpus.replay import ending, replay, trace_digest
from fuzzvm.corpus.store import to_text
from fuzzvm.machine.trace import digest
from fuzzvm.mitigations import registry
from fuzzvm.scenario.calls import Call, CatKernelPageTables, CatPageTables, CheckWxPages, VmallocHuge, Vmap, Vunmap
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.interactive import InteractiveSystem

LEFTOVERS = (Vmap(0, 4, "pte"), Vunmap(0, 4))


def make(mitigation: str = "none", **options: object) -> InteractiveSystem:
    arguments: dict[str, object] = {"setup": LEFTOVERS, "tracing": True} | options
    scheme = registry.shipped()[mitigation]
    return InteractiveSystem("arm64", "4K", 4, 2, scheme, "sc", 4, **arguments)  # type: ignore[arg-type]


def case_of(system: InteractiveSystem) -> TestCase:
    scenario, execution = system.to_scenario_and_schedule()
    name = system.system.mitigation_name
    return TestCase(scenario, name, system.system.memory, execution.schedule, Expectation.of(execution))


def digest_of(system: InteractiveSystem) -> str:
    return digest(system.trace or (), ending(system.failure))


CALLS = st.one_of(
    # CPU 1 maps over what CPU 0 has mapped, and unmaps what is not mapped: failures of other kinds are converted too
    st.tuples(
        st.integers(0, 1),
        st.builds(Vmap, st.sampled_from([0, 2]), st.sampled_from([1, 2]), st.sampled_from(["pte", "pmd", "pud"])),
    ),
    st.tuples(st.integers(0, 1), st.builds(Vunmap, st.sampled_from([0, 2]), st.sampled_from([1, 2]))),
    st.tuples(st.integers(0, 3), st.sampled_from([CatKernelPageTables(), CheckWxPages()])),
)
STEPS = st.tuples(st.integers(0, 3), st.integers(1, 40))


@settings(max_examples=150)
@given(
    mitigation=st.sampled_from(list(registry.shipped())),
    actions=st.lists(CALLS | STEPS | STEPS, max_size=20),
)
def test_every_run_converts_to_a_test_case_that_replays_to_the_same_digest(
    mitigation: str, actions: list[tuple[int, Call | int]]
) -> None:
    system = make(mitigation)
    for cpu, action in actions:
        if system.failure is not None:
            break
        if isinstance(action, Call):
            system.call(cpu, action)
        else:
            system.step(cpu, action)
    system.finish()
    case = parse(to_text(case_of(system)))
    assert replay(case).problem == ""
    assert trace_digest(case) == digest_of(system)


def test_the_race_of_a_promotion_and_a_walk() -> None:
    system = make()
    system.call(0, Vmap(0, 2, "pmd"))
    system.call(1, CatKernelPageTables())
    while system.failure is None and system.step(1):
        # the walker stands before each of its operations in turn, and CPU 0 maps there, then both go on
        trial = make()
        trial.call(0, Vmap(0, 2, "pmd"))
        trial.call(1, CatKernelPageTables())
        trial.step(1, len(system.schedule))
        trial.step(0, 1000)
        trial.finish()
        if trial.failure is not None:
            assert trial.failure.error == "use-after-free-read"
            assert replay(case_of(trial)).problem == ""
            return
    pytest.fail("no point of the walk is one where it races with the promotion")


def test_a_call_given_to_a_busy_cpu_comes_after_those_before() -> None:
    system = make()
    system.call(0, Vmap(0, 1))
    system.call(0, Vunmap(0, 1))
    assert not system.idle(0) and system.waiting_calls(0) == 2
    assert system.enabled() == (0,)
    system.finish()
    assert system.idle(0) and system.over and system.failure is None
    assert system.mappings() == []
    assert system.scenario.cpus[0] == (Vmap(0, 1), Vunmap(0, 1))


def test_mappings_and_areas_are_those_of_now() -> None:
    system = make()
    system.call(0, VmallocHuge("a", 2))
    system.finish()
    (mapping,) = system.mappings()
    assert system.areas(0) == {"a": mapping.addr} and system.areas(1) == {}
    assert [area.start for area in system.vmap_areas()] == [mapping.addr]


class _NeverUnlocks(registry.shipped()["none"]):  # type: ignore[misc]
    name = "never-unlocks"

    def after_walk(self, k, mm, token):  # type: ignore[no-untyped-def]
        from fuzzvm.kernel.mmap_lock import mmap_read_lock

        yield from mmap_read_lock(k, mm)


def test_a_lock_left_held_is_found_as_soon_as_every_cpu_idles() -> None:
    system = InteractiveSystem("arm64", "4K", 4, 2, _NeverUnlocks, "sc", 2)
    system.call(0, CatKernelPageTables())
    system.step(0, 1000)
    assert system.failure is not None and system.failure.error == "lock-not-released"
    assert replay(case_of(system), _NeverUnlocks).problem == ""


def test_a_wait_that_nobody_ends_is_found_by_finish() -> None:
    system = InteractiveSystem("arm64", "4K", 4, 2, _NeverUnlocks, "sc", 2)
    system.call(1, CheckWxPages())
    system.call(0, CatKernelPageTables())
    system.call(0, CatKernelPageTables())
    system.step(0, 1000)
    assert system.failure is None and not system.over
    system.finish()
    assert system.failure is not None and system.failure.error in ("deadlock", "no-progress")
    assert replay(case_of(system), _NeverUnlocks).problem == ""


class _FailsAtOnce(registry.shipped()["none"]):  # type: ignore[misc]
    name = "fails-at-once"

    def before_walk(self, k, mm):  # type: ignore[no-untyped-def]
        from fuzzvm.machine.errors import ModelError

        raise ModelError("deadlock", "fails before its first operation")
        yield


def test_a_call_that_fails_before_its_first_operation() -> None:
    system = InteractiveSystem("arm64", "4K", 4, 2, _FailsAtOnce, "sc", 2)
    system.call(0, Vmap(0, 1))
    system.step(0, 1000)
    system.call(1, Vmap(4, 1))
    system.step(1, 3)
    system.call(0, CatKernelPageTables())
    assert system.failure is not None and system.failure.function == "before_walk"
    assert replay(case_of(system), _FailsAtOnce).problem == ""


def test_what_cannot_be_done_is_refused() -> None:
    system = make()
    with pytest.raises(ScenarioError, match="past the"):
        system.call(0, Vmap(15, 2))
    assert system.scenario.cpus[0] == () and system.idle(0)
    system.call(0, Vmap(0, 1))
    with pytest.raises(ValueError, match="not over"):
        system.to_scenario_and_schedule()
    system.call(0, Vmap(0, 1))
    system.finish()
    assert system.failure is not None and system.failure.error == "map-over-mapping"
    with pytest.raises(ValueError, match="has failed"):
        system.call(1, CheckWxPages())
    with pytest.raises(ScenarioError):
        make(setup=(Vmap(0, 1), Vmap(0, 1)))


@pytest.mark.parametrize("mitigation", ["rcu-free", "deferred-free"])
def test_what_a_thread_of_the_kernels_own_has_still_to_do_is_done_before_all_idle(mitigation: str) -> None:
    system = make(mitigation)
    assert system.over
    system.call(0, Vmap(0, 2, "pmd"))
    system.step(0, 1000)
    assert system.idle(0) and not system.over and system.enabled() == (4,)
    system.finish()
    assert system.over and system.failure is None
    system.call(1, CatKernelPageTables())
    system.finish()
    assert replay(case_of(system)).problem == ""
    with pytest.raises(ValueError, match="the run is over"):
        system.call(0, Vunmap(0, 2))


class _Forgets(registry.shipped()["deferred-free"]):  # type: ignore[misc]
    name = "forgets"

    def free_table(self, k, table, level):  # type: ignore[no-untyped-def]
        yield from ()


def test_a_leak_beside_a_thread_is_found_as_soon_as_every_cpu_idles() -> None:
    system = InteractiveSystem("arm64", "4K", 4, 2, _Forgets, "sc", 2, setup=LEFTOVERS)
    system.call(0, Vmap(0, 2, "pmd"))
    system.step(0, 1000)
    assert system.failure is not None and system.failure.error == "leaked-table"
    assert replay(case_of(system), _Forgets).problem == ""


def test_an_mm_that_was_not_there_at_boot() -> None:
    system = InteractiveSystem("x86_64", "4K", 4, 2, registry.get("none"), "sc", 2)
    with pytest.raises(ScenarioError, match="booted without the mm"):
        system.call(0, CatPageTables("efi_mm"))
    system.call(0, CatPageTables("init_mm"))
    system.finish()
    assert system.failure is None
