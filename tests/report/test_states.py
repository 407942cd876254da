"""Memory after each step, against the machine itself."""

from __future__ import annotations

import pytest

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.replay import run
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.mitigations import registry
from fuzzvm.report.states import StatesOf
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.support import Seeded


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
@pytest.mark.parametrize("scenario", ["pud-promotion", "two-walkers", "vmalloc-cycle"])
def test_it_holds_what_every_location_held_after_every_step(memory: str, scenario: str) -> None:
    system = System(shipped.get(scenario), registry.get("static-key"), memory)
    for seed in range(5):
        execution = execute(system.machine(), Seeded(seed))
        case = TestCase(system.scenario, "static-key", memory, execution.schedule, Expectation.of(execution))
        states = StatesOf(case.schedule)
        machine, _ = run(case, system.mitigation, tracing=True, chooser=states)
        states.look(machine)
        contents = dict(states.boot)
        changes = list(states.changes)
        own: dict[tuple[int, int], object] = {}
        views = list(states.own_views)
        addresses = {*contents, *(change.address for change in changes)}
        mirror = system.machine()
        replayed = Replay(case.schedule)
        for number in range(len(case.schedule) + 1):
            while changes and changes[0].step == number:
                change = changes.pop(0)
                contents[change.address] = change.value
            while views and views[0].step == number:
                view = views.pop(0)
                own[view.cpu, view.address] = view.value
                if view.value is None:
                    del own[view.cpu, view.address]
            for address in addresses:
                assert contents.get(address, 0) == mirror.memory.peek(address)
                for cpu in range(len(system.scenario.cpus)):
                    assert mirror.memory.visible(cpu, address) == own.get((cpu, address), contents.get(address, 0))
            if number < len(case.schedule):
                agent = replayed.agent(mirror.enabled(), mirror)
                mirror.step(agent, replayed.value)
        assert not changes and not views
