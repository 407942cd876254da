"""Does a scenario make its calls as the kernel's functions may be called?

vmap over a page that is mapped, vunmap of nothing, set_memory of a hole and vfree of an unknown area are no use of the
kernel's API, and what comes of them says nothing about a mitigation. Calls of several CPUs may come in any order, and
some scenarios are about that; so a scenario breaks a precondition only where every order of whole calls breaks one.

The calls run on a kernel with no mitigation, under sequential consistency, each to its end before the next begins:
which pages are mapped is a matter of the scenario and not of the scheme.
"""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.scenario.calls import Areas, Call
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import MAX_SETUP_STEPS, System

MAX_CALLS_MADE = 2_000
"""Calls that are made to find an order that breaks nothing; past them a scenario counts as one that has one."""


class _TooManyError(Exception):
    """No order that breaks nothing was found within the bound."""


def breach(scenario: Scenario) -> str:
    """Return which precondition a scenario breaks whatever the order of its calls, in one line; '' where none.

    Of several, it is that of the first order. '' also stands for a scenario with too many orders to try them all.
    Raises ScenarioError where the kernel cannot be booted.
    """
    system = System(replace(scenario, setup=()), NoMitigation, "sc")
    made = _Made(system)
    machine = system.booted()
    areas: Areas = ()
    for number, call in enumerate(scenario.setup, 1):
        areas, wrong = made.call(machine, system.kernel, call, areas)
        if wrong:
            return f"setup, call {number}, {call}: {wrong}"
    try:
        return made.orders(machine, list(scenario.cpus), [areas] * len(scenario.cpus))
    except _TooManyError:
        return ""


class _Made:
    """Makes calls, and counts them."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._count = 0

    def orders(self, machine: Machine, left: list[tuple[Call, ...]], areas: list[Areas]) -> str:
        """Return '' if the calls that are left can be made in an order that breaks nothing, else the first breach."""
        first = ""
        for cpu, calls in enumerate(left):
            if not calls:
                continue
            self._count += 1
            if self._count > MAX_CALLS_MADE:
                raise _TooManyError
            after = machine.copy()
            after.observer = Oracles(after, self._system.kernel)
            got, wrong = self.call(after, self._system.views[cpu], calls[0], areas[cpu])
            if wrong:
                wrong = f"CPU {cpu}, {calls[0]}: {wrong}"
            else:
                wrong = self.orders(
                    after,
                    [*left[:cpu], calls[1:], *left[cpu + 1 :]],
                    [*areas[:cpu], got, *areas[cpu + 1 :]],
                )
                if not wrong:
                    return ""
            first = first or wrong
        return first

    def call(self, machine: Machine, k: Kernel, call: Call, areas: Areas) -> tuple[Areas, str]:
        """Make a call on a CPU's behalf; return the areas that it has then, and what the call breaks, '' if nothing."""
        if wrong := call.breach(k, _mapped_pages(machine, k), areas):
            return areas, wrong
        try:
            return machine.boot(call.run(k, areas), k.cpu, MAX_SETUP_STEPS), ""
        except ModelError as error:
            return areas, str(error)


def _mapped_pages(machine: Machine, k: Kernel) -> frozenset[int]:
    geometry = k.geometry
    shift = geometry.page_shift
    return frozenset(
        page
        for mapping in Oracles(machine, k).mappings()
        for first in ((mapping.addr - geometry.base) >> shift,)
        for page in range(first, first + (geometry.size(mapping.level) >> shift))
    )
