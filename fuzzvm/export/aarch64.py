"""An exported test as an AArch64 litmus test in herd7's format."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from fuzzvm.export.errors import ExportError
from fuzzvm.export.exported_test import (
    Action,
    Execute,
    ExportedTest,
    Lock,
    Maintain,
    Ordering,
    Read,
    Unlock,
    Update,
    Write,
)
from fuzzvm.machine.ops import CacheOperation, Order
from fuzzvm.machine.schedule import format_schedule

LAST_REGISTER = 30
AND = " /\\ "
_LOADS = {Order.PLAIN: "LDR", Order.ACQUIRE: "LDAR", Order.ACQUIRE_RELEASE: "LDAR", Order.ACQUIRE_PC: "LDAPR"}
_STORES = {Order.PLAIN: "STR", Order.RELEASE: "STLR", Order.ACQUIRE_RELEASE: "STLR"}
_ATOMICS = {
    Order.PLAIN: "CAS",
    Order.ACQUIRE: "CASA",
    Order.ACQUIRE_PC: "CASA",
    Order.RELEASE: "CASL",
    Order.ACQUIRE_RELEASE: "CASAL",
}


def aarch64(test: ExportedTest) -> str:
    """Return the litmus test's text. Raises ExportError where a thread needs more registers than there are."""
    threads = [_Thread(number, thread, test) for number, thread in enumerate(test.threads)]
    labels = {site: (thread.number, label) for thread in threads for site, label in thread.labels.items()}
    lines = [f"AArch64 {test.name}"]
    if test.sites:
        lines.append("Variant=Ifetch")
    lines += [*told(test), "{"]
    lines += [f"{place}={value};" for place, value in test.initial.items() if value]
    for thread in threads:
        lines += thread.initial(labels, test)
    lines.append("}")
    columns = [[f"P{thread.number}", *thread.code] for thread in threads]
    widths = [max(map(len, column)) for column in columns]
    for row in zip_longest(*columns, fillvalue=""):
        lines.append(" " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " ;")
    conditions = [condition for thread in threads for condition in thread.conditions]
    lines.append("exists (" + (AND.join(conditions) or "true") + ")")
    return "\n".join(lines) + "\n"


def told(test: ExportedTest) -> list[str]:
    """Return the comment that says what a test is about, as lines."""
    case = test.case
    lines = [
        f"{case.mitigation}, memory {case.memory}, {case.expect}",
        f"schedule: {format_schedule(case.schedule)}",
        *(f"P{number} is CPU {cpu}" for number, cpu in enumerate(test.cpus)),
        *(f"{place}: {meaning}" for place, meaning in test.meanings.items()),
        *(f"left out: {what}" for what in test.left_out),
        *(
            f"{place}: updated in the order of the run, by CAS; Never is said for that order alone"
            for place in _updated(test)
        ),
    ]
    # herd7 has no way to say *) within a comment
    return [f"(* {line.replace('*)', '* )')} *)" for line in lines]


def _updated(test: ExportedTest) -> list[str]:
    """Return the places that several threads update, each from the value that was found in the run."""
    updating = [{action.place for action in thread if isinstance(action, Update)} for thread in test.threads]
    return sorted(place for place in set().union(*updating) if sum(place in places for places in updating) > 1)


class _Thread:
    """The code of one thread, the registers that it starts with, and what they must hold at the end."""

    def __init__(self, number: int, actions: Sequence[Action], test: ExportedTest) -> None:
        self.number = number
        self.code: list[str] = []
        self.conditions: list[str] = []
        self.labels: dict[str, str] = {}
        """Label of the patched site that this thread executes, by the site's place."""
        self._addresses: dict[str, int] = {}
        self._instructions: dict[tuple[str, bool], int] = {}
        self._test = test
        self._results: dict[int, int] = {}
        """The register that each read of the thread leaves its value in."""
        self._shared = {
            action.place
            for other, thread in enumerate(test.threads)
            for action in thread
            if other != number and not isinstance(action, Ordering)
        }
        self._unasked: int | None = None
        """The register for what nobody asks: an atomic on a place of this thread alone finds what it left there."""
        self._offset: int | None = None
        """The register for offsets that are always 0, and depend on what was read."""
        self._next = 0
        self._scratch = self._register()
        for index, action in enumerate(actions):
            self._emit(index, action)

    def initial(self, labels: dict[str, tuple[int, str]], test: ExportedTest) -> list[str]:
        """Return the declarations of its registers; `labels` is where each patched site is executed."""
        lines = []
        for place, register in self._addresses.items():
            if place in test.sites:
                thread, label = labels[place]
                lines.append(f'{self.number}:X{register}=label:"P{thread}:{label}";')
            else:
                lines.append(f"{self.number}:X{register}={place};")
        for (_, taken), register in self._instructions.items():
            lines.append(f'{self.number}:X{register}=instr:"{_instruction(taken)}";')
        return lines

    def _register(self) -> int:
        if self._next >= LAST_REGISTER:
            raise ExportError(f"thread P{self.number} needs more than {LAST_REGISTER} registers")
        self._next += 1
        return self._next - 1

    def _found(self, place: str, value: int) -> int:
        """Return the register for what an atomic finds, which must be that value."""
        if place in self._shared:
            register = self._register()
            self._expect(register, value)
            return register
        if self._unasked is None:
            self._unasked = self._register()
        return self._unasked

    def _address(self, place: str) -> int:
        if place not in self._addresses:
            self._addresses[place] = self._register()
        return self._addresses[place]

    def _expect(self, register: int, value: int) -> None:
        self.conditions.append(f"{self.number}:X{register}={value}")

    def _emit(self, index: int, action: Action) -> None:
        match action:
            case Read(place, value, order, depends):
                where = self._where(place, depends)
                register = self._results[index] = self._register()
                if order is not Order.PLAIN and "," in where:
                    # an acquire has no register offset
                    where = self._added(place)
                self.code.append(f"{_LOADS[order]} W{register},{where}")
                self._expect(register, value)
            case Write(place, value, order, depends) if place in self._test.sites:
                self.code.append(f"STR W{self._instruction(place, bool(value))},[X{self._address(place)}]")
            case Write(place, value, order, depends):
                where = self._where(place, depends)
                if order is not Order.PLAIN and "," in where:
                    where = self._added(place)
                self.code.append(f"{_STORES[order]} {self._constant(value)},{where}")
            case Update(place, old, new, order):
                register = self._found(place, old)
                self.code.append(f"MOV W{register},#{old}")
                self.code.append(f"{_ATOMICS[order]} W{register},{self._constant(new)},[X{self._address(place)}]")
            case Lock(place, order):
                register = self._found(place, 0)
                swap = "SWP" if order is Order.PLAIN else "SWPA"
                self.code.append(f"{swap} {self._constant(1)},W{register},[X{self._address(place)}]")
            case Unlock(place, order):
                self.code.append(f"{_STORES[order]} WZR,[X{self._address(place)}]")
            case Ordering(kind):
                self.code.append(kind.value.upper())
            case Maintain(place, operation):
                name = "DC CVAU" if operation is CacheOperation.DC_CVAU else "IC IVAU"
                self.code.append(f"{name},X{self._address(place)}")
            case Execute(place, taken):
                self._execute(place, taken)

    def _execute(self, place: str, taken: bool) -> None:
        """Execute a patched site: a branch over one instruction, which counts when it is executed."""
        label = f"L{self.number}{len(self.labels)}"
        if place in self.labels:
            raise ExportError(f"thread P{self.number} executes {place} twice: its patches name one site only")
        self.labels[place] = label
        register = self._register()
        self.code.append(f"{label}:")
        self.code.append(_instruction(self._test.sites[place]))
        self.code.append(f"MOV W{register},#1")
        # the branch skips the MOV; without it, it is executed
        self._expect(register, 0 if taken else 1)

    def _instruction(self, place: str, taken: bool) -> int:
        key = ("", taken)
        if key not in self._instructions:
            self._instructions[key] = self._register()
        return self._instructions[key]

    def _constant(self, value: int) -> str:
        if value == 0:
            return "WZR"
        self.code.append(f"MOV W{self._scratch},#{value}")
        return f"W{self._scratch}"

    def _where(self, place: str, depends: int | None) -> str:
        address = self._address(place)
        if depends is None or depends not in self._results:
            return f"[X{address}]"
        source = self._results[depends]
        if self._offset is None:
            self._offset = self._register()
        self.code.append(f"EOR X{self._offset},X{source},X{source}")
        return f"[X{address},X{self._offset}]"

    def _added(self, place: str) -> str:
        """Make the sum of an address and the offset computed last; return the operand."""
        self.code.append(f"ADD X{self._offset},X{self._address(place)},X{self._offset}")
        return f"[X{self._offset}]"


def _instruction(taken: bool) -> str:
    """Return the instruction of a patched site: the branch over what follows it, or a NOP."""
    return "B .+8" if taken else "NOP"
