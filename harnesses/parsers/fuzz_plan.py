"""Fuzzes the bytes that mean schedules: every byte string is a run that ends, and its schedule is text that repeats it.

Runs go over small systems of each memory model. How to run it: frame.py.
"""

from functools import cache

from frame import fuzz, instrumented

with instrumented(__name__, "fuzzvm.runs.guided.codec", "fuzzvm.runs.plans.orders", "fuzzvm.machine.schedule"):
    from fuzzvm.machine.execution import Replay, execute
    from fuzzvm.machine.schedule import format_schedule, parse_schedule
    from fuzzvm.mitigations import registry
    from fuzzvm.runs.guided import codec
    from fuzzvm.runs.plans.orders import FollowOrders, Orders
    from fuzzvm.scenario import shipped
    from fuzzvm.scenario.system import System

SYSTEMS = (
    ("pmd-promotion", "none", "sc"),
    ("pmd-promotion", "static-key", "arm64"),
    ("x86-pmd-promotion", "rcu-free", "tso"),
)


@cache
def systems() -> list[System]:
    """Return the systems that are run."""
    return [System(shipped.get(scenario), registry.get(scheme), memory) for scenario, scheme, memory in SYSTEMS]


def one_input(data: bytes) -> None:
    """Run what bytes mean, and run its schedule again."""
    index = codec.system_of(data, len(SYSTEMS))
    system = systems()[index]
    agents = system.cpus if system.memory == "sc" else 2 * system.cpus
    _, plan = codec.decode(data, len(SYSTEMS), agents)
    assert codec.decode(codec.encode(index, plan), len(SYSTEMS), agents) == (index, plan)
    execution = execute(system.machine(), FollowOrders(plan, Orders()))
    schedule = parse_schedule(format_schedule(execution.schedule))
    assert schedule == execution.schedule
    chooser = Replay(schedule)
    again = execute(system.machine(), chooser)
    chooser.finish()
    assert again == execution


if __name__ == "__main__":
    fuzz("fuzz_plan", one_input)
