"""fuzzvm.runs.stretch: many runs of the calls that the CPUs of an interactive system have been given."""

from __future__ import annotations

from random import Random

import pytest

from fuzzvm.machine.errors import ScheduleError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.mitigations import registry
from fuzzvm.runs.stretch import FEW, After, Stretch
from fuzzvm.scenario.calls import CatKernelPageTables, Vmap, Vunmap
from fuzzvm.scenario.interactive import InteractiveSystem
from fuzzvm.scenario.system import System
from tests.support import Follow


def booted(memory: str, scheme: str = "none") -> InteractiveSystem:
    setup = [Vmap(0, 2, "pte"), Vunmap(0, 2)]
    return InteractiveSystem("arm64", "4K", 3, 2, registry.shipped()[scheme], memory, 2, setup=setup)


@pytest.mark.always
@pytest.mark.parametrize("scheme", ["none", "deferred-free"])
@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_a_bug_is_found_after_other_calls_and_replays(memory: str, scheme: str) -> None:
    system = booted(memory, scheme)
    system.call(0, Vmap(2, 2, "pte"))
    system.call(1, CatKernelPageTables())
    system.finish()
    begun = system.schedule
    system.call(0, Vmap(0, 2, "pmd"))
    system.call(1, CatKernelPageTables())
    found = Stretch(system).look_for_bug(Random(0), 200)
    assert found is not None and found.failure is not None
    assert begun and found.schedule[: len(begun)] == begun
    whole = System(system.scenario, registry.shipped()[scheme], memory)
    again = execute(whole.machine(), Replay(found.schedule))
    assert again.failure == found.failure
    assert system.schedule == begun, "the system itself has not gone on"


@pytest.mark.always
def test_a_stretch_in_which_nothing_is_freed_beside_an_access_is_run_a_few_times() -> None:
    system = booted("sc")
    system.call(0, Vmap(2, 2, "pte"))
    system.call(1, CatKernelPageTables())
    stretch = Stretch(system)
    assert stretch.look_for_bug(Random(0), 100) is None
    assert stretch.runs == FEW


@pytest.mark.always
def test_a_stretch_of_a_safe_scheme_uses_all_runs_that_it_has() -> None:
    system = booted("sc", "static-key")
    system.call(0, Vmap(0, 2, "pmd"))
    system.call(1, CatKernelPageTables())
    stretch = Stretch(system)
    assert stretch.look_for_bug(Random(0), 30) is None
    assert stretch.runs == 30
    system.finish(stretch.follow(Random(0)))
    assert system.over and system.failure is None


def test_after_a_beginning_that_does_not_fit_is_an_error() -> None:
    system = booted("sc")
    system.call(0, Vmap(0, 2, "pmd"))
    task = System(system.scenario, registry.shipped()["none"], "sc")
    with pytest.raises(ScheduleError):
        execute(task.machine(), After(((0, 1),), Follow()))
