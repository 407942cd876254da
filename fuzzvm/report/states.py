"""What memory looks like after each step of a run: what there was at boot, and what each step changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.machine.execution import Replay
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Rmw, Store, Value, address_of
from fuzzvm.machine.schedule import Step


@dataclass(frozen=True, slots=True)
class Change:
    """A location that holds another value, as every CPU can see it, from a step on."""

    step: int
    address: Address
    value: Value


@dataclass(frozen=True, slots=True)
class OwnView:
    """A location that one CPU sees otherwise than all the others, from a step on; `value` None where that is over."""

    step: int
    cpu: int
    address: Address
    value: Value


class StatesOf(Replay):
    """Follows a schedule, and keeps what memory looks like at each step. `finish` takes the last look.

    `boot` has every location that holds something else than 0 when the CPUs start; `changes` and `own_views` are in
    the order in which they came about.
    """

    def __init__(self, schedule: Sequence[Step]) -> None:
        super().__init__(schedule)
        self.boot: dict[Address, Value] = {}
        self.changes: list[Change] = []
        self.own_views: list[OwnView] = []
        self._contents: dict[Address, Value] = {}
        self._own: dict[tuple[int, Address], Value] = {}
        self._buffered: set[tuple[int, Address]] = set()
        self._seen = 0
        self._machine: Machine | None = None

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        self.look(machine)
        return super().agent(enabled, machine)

    def look(self, machine: Machine) -> None:
        """Take in what the steps since the last look have changed; the machine must be tracing."""
        if self._machine is None:
            self._machine = machine
            self._look_at_boot(machine)
        trace = machine.trace or []
        for step in trace[self._seen :]:
            op = step.op
            if isinstance(op, Store | Rmw):
                self._contents.setdefault(op.address, 0)
                self._buffered.add((step.cpu, op.address))
        number = self._seen = len(trace)
        for address, before in self._contents.items():
            value = machine.memory.peek(address)
            if value != before:
                self._contents[address] = value
                self.changes.append(Change(number, address, value))
        for cpu, address in sorted(self._buffered):
            shared, own = self._contents[address], machine.memory.visible(cpu, address)
            if own != shared and self._own.get((cpu, address)) != own:
                self._own[cpu, address] = own
                self.own_views.append(OwnView(number, cpu, address, own))
            elif own == shared:
                self._buffered.discard((cpu, address))
                if self._own.pop((cpu, address), None) is not None:
                    self.own_views.append(OwnView(number, cpu, address, None))

    def _look_at_boot(self, machine: Machine) -> None:
        allocator = machine.allocator
        for allocation in allocator.allocations:
            if allocation.number in allocator.dead:
                continue
            for offset in range(allocation.size):
                value = machine.memory.peek(address_of(allocation.number, offset))
                if value != 0:
                    self.boot[address_of(allocation.number, offset)] = value
        self._contents = dict(self.boot)
