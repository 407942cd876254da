"""The steps of an image's code as visible operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fuzzvm.compare.names import Names
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
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.lines import Frame
from fuzzvm.compiled.run.boundary import WAITERS, WRITER
from fuzzvm.compiled.run.links import ENTRY, table_of
from fuzzvm.compiled.run.program import CompiledProgram
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.compiled.run.units import Unit
from fuzzvm.images.geometry import Geometry
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Alloc, Fence, Free, Load, Rmw, Store, Tlbi, Value, object_of, succeeds
from fuzzvm.machine.trace import TraceStep

LOCKS = {
    "init_mm.mmap_lock": ("init_mm", ("mm_struct", "mmap_lock", "count"), 8),
    "init_mm.page_table_lock": ("init_mm", ("mm_struct", "page_table_lock"), 1),
}
"""Locks that both sides have, by the model's name: a symbol, the member of it, and the bytes that are its word."""
ROOT = "swapper_pg_dir"
TAKEN = WRITER | WAITERS | 1 << 2
"""Bits of a semaphore's count for which a reader does not get it (RWSEM_READ_FAILED_MASK without the sign)."""


class CompiledSide:
    """A task of compiled code, in which each access is a step."""

    def __init__(self, task: CompiledTask, geometry: Geometry, names: Names) -> None:
        self.task = task
        self._geometry = geometry
        self._names = names

    def begin(self, machine: Machine) -> None:
        task = self.task
        memory = self._memory = task.environment.memory
        image = task.image
        root = memory.location(image.symbol(ROOT).address, ENTRY)
        assert root is not None
        levels, shift = image.manifest.levels, image.manifest.page_shift
        above = shift + (shift - ENTRY.bit_length() + 1) * (levels - 1)
        first = (self._geometry.base >> above) % _entries_of_root(image, above)
        self._tables = Tables(machine, root.address, levels, (1 << shift) // ENTRY, ENTRY, first, self._decode)
        self._locks: dict[Address, str] = {}
        for name, (symbol, members, size) in LOCKS.items():
            try:
                offset = image.types.offset(*members)
            except ImageError:
                # a kernel that has no such lock
                continue
            unit = memory.location(image.symbol(symbol).address + offset, size)
            if unit is not None:
                self._locks[unit.address] = name

    def again(self) -> None:
        self.task = self.task.again()

    def before(self, program: Any) -> tuple[int, Any]:
        assert isinstance(program, CompiledProgram)
        return program.calls_begun - 1, program.frames()

    def visible(self, step: TraceStep, stood: Any) -> Visible | str:
        frames: tuple[Frame, ...] = stood
        found = self._operation(step, [frame.function for frame in frames])
        if isinstance(found, str):
            return found
        stack = tuple(Place(frame.function, frame.file, frame.line) for frame in frames)
        return replace(found, function=attributed(stack, self._names.compared), stack=stack)

    def _operation(self, step: TraceStep, functions: list[str]) -> Visible | str:
        op = step.op
        match op:
            case Fence():
                return Visible("fence", "", op.kind.value)
            case Tlbi(operation, address):
                page = address - self._geometry.base >> self._geometry.page_shift
                return Visible("tlbi", "", operation, pages=None if operation.startswith("vmall") else (page, page + 1))
            case Alloc():
                return Visible("alloc", "")
            case Free(address):
                return Visible("free", self._tables.path_of_table(object_of(address)) or "")
            case Load() | Store() | Rmw():
                return self._access(op, step.response, functions)
        return Visible(type(op).__name__.lower(), "")

    def _access(self, op: Load | Store | Rmw, response: Value, functions: list[str]) -> Visible | str:
        order = order_of(op.order)
        writes = not isinstance(op, Load) and (not isinstance(op, Rmw) or succeeds(op, response))
        value = op.value if isinstance(op, Store) else op.update(response) if isinstance(op, Rmw) else response
        entry = self._tables.entry(op.address)
        if entry is not None:
            if not writes:
                return Visible("read", entry, order=order)
            what = self._tables.wrote(op.address, value).what
            return Visible("write" if isinstance(op, Store) else "swap", entry, what, order)
        name = self._locks.get(op.address)
        if name is None:
            return self._unmodelled(op.address)
        return self._lock(op, name, response, value, functions)

    def _lock(self, op: Load | Store | Rmw, name: str, old: Value, new: Value, functions: list[str]) -> Visible:
        call = lock_call(functions)
        order = order_of(op.order)
        if not isinstance(op, Load) and (isinstance(op, Store) or new != old):
            return Visible("lock", name, call, order)
        assert isinstance(old, int)
        if call.endswith("trylock") and old & (TAKEN if "read" in call else ~0):
            return Visible("lock", name, f"{call}, not got", order)
        return Visible("read", name, order=order)

    def _unmodelled(self, address: Address) -> str:
        """Return what an access is of that the model does not have."""
        memory = self._memory
        number = object_of(address)
        va = memory.va(address)
        if number >= memory.boot_objects:
            return "a page that is no table yet"
        layout = memory.layout
        if 0 <= va - layout.vmemmap < 1 << 16:
            return "struct page"
        symbol = self.task.image.symbol_at(va)
        if symbol is None:
            return f"{va:#x}"
        return self._member(symbol.name, va - symbol.address)

    def _member(self, name: str, offset: int) -> str:
        if name != "init_mm":
            return name
        members = self.task.image.types.named("mm_struct").members
        inside = [one for one in members if one.name and one.offset <= offset]
        if not inside:
            return name
        member = max(inside, key=lambda one: one.offset)
        return f"init_mm.{member.name}{f'+{offset - member.offset:#x}' if offset != member.offset else ''}"

    def _decode(self, address: Address, value: Value) -> Decoded:
        memory = self._memory
        content = memory.initial(Unit(address, ENTRY)) ^ (value if isinstance(value, int) else 0)
        if not content:
            return NONE
        target = table_of(memory, content)
        return LEAF if target is None else Decoded("table", target)


def _entries_of_root(image: Image, shift: int) -> int:
    return 1 << int(image.config["CONFIG_ARM64_VA_BITS"]) - shift
