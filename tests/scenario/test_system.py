"""fuzzvm.scenario.system: one boot, many runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot
from fuzzvm.kernel.oracles import Oracles, Remembered
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.trace import digest
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.registry import shipped as mitigations
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Vfree, Vmalloc
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System, default_memory
from tests.kernel.reference import live_tables
from tests.support import Seeded

PMD = shipped.get("pmd-promotion")


@settings(max_examples=60)
@given(
    st.sampled_from(list(shipped.shipped().values())), st.sampled_from(list(mitigations().values())), st.integers(0, 99)
)
def test_every_machine_of_a_system_runs_alike(scenario: Scenario, mitigation: type[Mitigation], seed: int) -> None:
    system = System(scenario, mitigation, "sc")
    first = system.machine(tracing=True)
    execution = execute(first, Seeded(seed))
    for again in (system, System(scenario, mitigation, "sc")):
        machine = again.machine(tracing=True)
        replay = Replay(execution.schedule)
        assert execute(machine, replay) == execution
        replay.finish()
        assert digest(machine.trace or ()) == digest(first.trace or ())


def test_boot_has_done_the_setup_and_taken_no_step() -> None:
    system = System(PMD, NoMitigation, "sc")
    machine = system.machine()
    assert machine.steps == 0
    assert not machine.done
    assert len(live_tables(machine, system.kernel)) == 3
    assert [machine.stack(cpu)[-1] for cpu in range(2)] == ["run_calls", "run_calls"]


def test_areas_of_the_setup_are_known_to_every_cpu() -> None:
    data = PMD.to_data() | {"setup": ["vmalloc(area='a', nr_pages=1)"], "cpus": [[], ["vfree(area='a')"]]}
    machine = System(Scenario.from_data(data), NoMitigation, "sc").machine()
    assert list(machine.enabled()) == [1]


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (["vmap(page=0, nr_pages=1)"] * 2, "setup fails: map-over-mapping: 0xffff800000000000 is mapped already"),
        (["vmap(page=0, nr_pages=2)", "vmap(page=1, nr_pages=1)"], "lies in a block that is mapped"),
    ],
)
def test_a_setup_that_fails(setup: list[str], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        System(Scenario.from_data(PMD.to_data() | {"setup": setup}), NoMitigation, "sc")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.key == "setup"


def test_an_unknown_memory_model() -> None:
    with pytest.raises(KeyError):
        System(PMD, NoMitigation, "alpha")


def test_the_default_memory_is_the_architectures_where_it_exists() -> None:
    for name in ("pmd-promotion", "x86-pmd-promotion"):
        scenario = shipped.get(name)
        own = architectures.get(scenario.arch).memory
        assert default_memory(scenario) == (own if own in memory_models.names() else "sc")


def test_a_mitigation_that_cannot_be_attached() -> None:
    class Fails(NoMitigation):
        def attach(self, boot: Boot) -> None:
            raise OSError("no")

    with pytest.raises(ProgramError, match=r"test_system\.py:\d+: OSError: no"):
        System(PMD, Fails, "sc")


@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_of_the_boot_only_what_tlbs_may_hold_is_remembered(memory: str) -> None:
    off = System(PMD, NoMitigation, memory).property.initial
    assert off == Remembered()
    lazy = replace(PMD, setup=(Vmalloc("small", 2), Vfree("small")), tlb=True)
    system = System(lazy, NoMitigation, memory)
    held = system.property.initial.tlb
    assert held is not None
    # the translations of what was freed lazily, and the entries that lead to its table
    assert [len(of_cpu) for of_cpu in held.held] == [5, 5]
    assert system.property.initial == Remembered(tlb=held)
    observer = system.machine().observer
    assert isinstance(observer, Oracles)
    assert observer.remembered == system.property.initial
