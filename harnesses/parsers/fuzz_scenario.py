"""Fuzzes scenarios: a text of TOML gives a machine that boots and runs to an end, or an error that says what is wrong.

The first byte picks the memory model and the mitigation; the rest is a file for `--scenario`. The
run goes CPU by CPU: what its steps are is the scenario's doing. How to run it: frame.py.
"""

from pathlib import Path

from frame import fuzz, instrumented

with instrumented(__name__, "tomllib", "fuzzvm.scenario"):
    from fuzzvm.machine import memory as memory_models
    from fuzzvm.machine.execution import execute
    from fuzzvm.mitigations import registry
    from fuzzvm.runs.plans.plan import FollowPlan, Plan
    from fuzzvm.scenario import own
    from fuzzvm.scenario.errors import ScenarioError
    from fuzzvm.scenario.scenario import Scenario
    from fuzzvm.scenario.system import System
    from fuzzvm.scenario.toml_text import TomlTextError, text_of

SCHEMES = tuple(registry.shipped().values())
MEMORIES = tuple(memory_models.names())


def one_input(data: bytes) -> None:
    """Boot and run what bytes mean."""
    if not data:
        return
    scheme, memory = SCHEMES[data[0] % len(SCHEMES)], MEMORIES[data[0] // len(SCHEMES) % len(MEMORIES)]
    try:
        scenario = own.parse(text_of(data[1:]), Path("mine.toml"))
        assert Scenario.from_data(scenario.to_data()) == scenario
        system = System(scenario, scheme, memory)
    except (ScenarioError, TomlTextError) as error:
        assert str(error).isprintable(), f"more than a line: {error!r}"
        return
    execute(system.machine(), FollowPlan(Plan(())))


if __name__ == "__main__":
    fuzz("fuzz_scenario", one_input)
