"""The model's steps as visible operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fuzzvm.compare.names import READS, Names
from fuzzvm.compare.operations import (
    LEAF,
    NONE,
    Decoded,
    Place,
    Tables,
    Visible,
    attributed,
    lock_call,
    order_of,
)
from fuzzvm.images.geometry import Geometry
from fuzzvm.kernel.pgtable import pxd_none, pxd_pgtable, pxd_table
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Alloc, Await, Fence, Free, Load, Rmw, Store, Tlbi, Value, object_of
from fuzzvm.machine.trace import TraceStep
from fuzzvm.scenario.system import System

ABSENT = {"mem_hotplug_lock": "mem_hotplug_lock (get_online_mems() is stood for where images run)"}
"""Locks of the model that images do not have."""
PACKAGE = "/fuzzvm/"


class ModelSide:
    """A system of the model. `geometry` says where its pages are in the image."""

    def __init__(self, system: System, geometry: Geometry, names: Names) -> None:
        self.task = system
        self._system = system
        self._geometry = geometry
        self._names = names
        self._reads: dict[int, tuple[object, int]] = {}

    def begin(self, machine: Machine) -> None:
        kernel = self._system.kernel
        levels = sum(entries > 1 for entries in kernel.geometry.ptrs)
        self._tables = Tables(machine, kernel.init_mm.pgd, levels, kernel.geometry.ptrs[0], 1, 0, _decode)
        self._reads.clear()

    def again(self) -> None:
        raise AssertionError("the model is never outdated")

    def before(self, program: Any) -> tuple[int, Any]:
        assert isinstance(program, GeneratorProgram)
        variables: Any = program.variables()
        call = variables[0][1].get("index", 0)
        return call, [_place(code.co_name, code.co_filename, line) for code, line in reversed(program.frames())]

    def visible(self, step: TraceStep, stood: Any) -> Visible | str:
        found = self._operation(step, [place.function for place in stood])
        if isinstance(found, str):
            return found
        kernel = self._names.kernel
        stack = tuple(one._replace(function=kernel.get(one.function, one.function)) for one in stood)
        reader = self._reader(step, found, stood)
        if reader:
            return replace(found, function=reader, stack=(stack[0]._replace(function=reader), *stack[1:]))
        return replace(found, function=attributed(stack, self._names.compared), stack=stack)

    def _reader(self, step: TraceStep, found: Visible, stood: list[Place]) -> str:
        """Return the kernel's function of a read that one function of the model makes for several; '' for others."""
        readers = READS.get(stood[0].function)
        if readers is None or found.kind != "read":
            self._reads.pop(step.cpu, None)
            return ""
        entry, number = self._reads.get(step.cpu, (None, 0))
        number = number if entry == found.place else 0
        self._reads[step.cpu] = found.place, number + 1
        return readers[min(number, len(readers) - 1)]

    def _operation(self, step: TraceStep, functions: list[str]) -> Visible | str:
        op = step.op
        match op:
            case Fence():
                return Visible("fence", "", op.kind.value)
            case Tlbi(operation, address):
                return Visible("tlbi", "", operation, pages=self._pages(operation, address))
            case Alloc():
                return Visible("alloc", "")
            case Free(address):
                return Visible("free", self._tables.path_of_table(object_of(address)) or "")
            case Load() | Store() | Rmw() | Await():
                return self._access(op, step.response, functions)
        return Visible(type(op).__name__.lower(), "")

    def _access(self, op: Load | Store | Rmw | Await, response: Value, functions: list[str]) -> Visible | str:
        entry = self._tables.entry(op.address)
        order = order_of(op.order)
        if entry is None:
            return self._lock(op, response, functions)
        if isinstance(op, Load | Await):
            return Visible("read", entry, order=order)
        value = op.value if isinstance(op, Store) else op.update(response)
        what = self._tables.wrote(op.address, value).what
        return Visible("write" if isinstance(op, Store) else "swap", entry, what, order)

    def _lock(self, op: Load | Store | Rmw | Await, response: Value, functions: list[str]) -> Visible | str:
        name = self._system.kernel.lock_name(op.address)
        if name in ABSENT:
            return ABSENT[name]
        call = lock_call(functions)
        if isinstance(op, Rmw) and op.update(response) == response:
            call += ", not got"
        if isinstance(op, Await):
            call += ", waited for"
        return Visible("lock", name, call, order_of(op.order))

    def _pages(self, operation: str, address: int) -> tuple[int, int] | None:
        if operation.startswith("vmalle1"):
            return None
        geometry = self._system.kernel.geometry
        number = address - geometry.base >> geometry.page_shift
        return self._geometry.page(number), self._geometry.page(number + 1)


def _decode(address: Address, value: Value) -> Decoded:
    if not isinstance(value, int) or pxd_none(value):
        return NONE
    return Decoded("table", pxd_pgtable(value)) if pxd_table(value) else LEAF


def _place(function: str, filename: str, line: int) -> Place:
    _, _, inside = filename.rpartition(PACKAGE)
    return Place(function, f"fuzzvm/{inside}", line)
