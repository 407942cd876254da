"""A question as a C litmus test for the kernel's memory model: herd7 -conf linux-kernel.cfg.

Syntax and primitives are those of Linux 6.12's tools/memory-model/Documentation (litmus-tests.txt) and of
linux-kernel.def. The model has no instruction fetch and no cache maintenance: a patched site is a plain variable, DC,
IC, ISB and the IPI are left out. An entry that leads to the table is a pointer to the word `freed`, so that the use of
the table depends on what was read; dependencies on entries that lead elsewhere are left out. No such entry is ever a
number, not even one that is cleared: herd7 refuses to dereference what is no address.
"""

from __future__ import annotations

from fuzzvm.export.aarch64 import AND, told
from fuzzvm.export.question import (
    FREED_PLACE,
    Action,
    Execute,
    Lock,
    Maintain,
    Ordering,
    Question,
    Read,
    Unlock,
    Update,
    Write,
)
from fuzzvm.machine.ops import Barrier, Order

_BARRIERS = {
    Barrier.DMB_ISH: "smp_mb",
    Barrier.DSB_ISH: "smp_mb",
    Barrier.DMB_ISHST: "smp_wmb",
    Barrier.DSB_ISHST: "smp_wmb",
    Barrier.DMB_ISHLD: "smp_rmb",
    Barrier.DSB_ISHLD: "smp_rmb",
}
_SUFFIX = {
    Order.PLAIN: "_relaxed",
    Order.ACQUIRE: "_acquire",
    Order.ACQUIRE_PC: "_acquire",
    Order.RELEASE: "_release",
    Order.ACQUIRE_RELEASE: "",
}


def lkmm(question: Question) -> str:
    """Return the litmus test's text."""
    pointers = _pointers(question)
    threads = [_Thread(number, actions, pointers) for number, actions in enumerate(question.threads)]
    lines = [f"C {question.name}", "", *told(question)]
    if question.sites:
        lines.append("(* left out: fetch, DC, IC and ISB; a patched site is a variable, 1 for the branch *)")
    lines += ["", "{"]
    initial = question.initial | {place: int(taken) for place, taken in question.sites.items()}
    for place, value in (dict.fromkeys(pointers, 0) | initial).items():
        if value or place in pointers:
            lines.append(f"\t{place}={_value(pointers, place, value)};")
    lines += ["}", ""]
    for thread in threads:
        lines += [*thread.text(), ""]
    conditions = [condition for thread in threads for condition in thread.conditions]
    lines.append(f"exists ({AND.join(conditions)})")
    return "\n".join(lines) + "\n"


def _pointers(question: Question) -> dict[str, int]:
    """Return the entries that lead to the freed table, each with the code of the value that does."""
    found = {}
    for thread in question.threads:
        for action in thread:
            if isinstance(action, Read | Write) and action.place == FREED_PLACE and action.depends is not None:
                source = thread[action.depends]
                if isinstance(source, Read):
                    found[source.place] = source.value
    return found


def _value(pointers: dict[str, int], place: str, value: int) -> str:
    """Return a value as C has it; what else than the table an entry holds is a pointer to a word of its own."""
    if place not in pointers:
        return str(value)
    return FREED_PLACE if value == pointers[place] else f"other{value}"


class _Thread:
    def __init__(self, number: int, actions: tuple[Action, ...], pointers: dict[str, int]) -> None:
        self._number = number
        self._pointers = pointers
        self._places: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._registers: list[str] = []
        self._results: dict[int, str] = {}
        self._code: list[str] = []
        self.conditions: list[str] = []
        for index, action in enumerate(actions):
            self._emit(index, action)

    def text(self) -> list[str]:
        """Return the function of the thread."""
        parameters = [f"int {'**' if place in self._pointers else '*'}{place}" for place in self._places]
        parameters += [f"int *{other}" for other in self._others if other not in self._places]
        declared = [f"\tint {register};" for register in self._registers]
        body = [f"\t{line};" for line in self._code]
        return [f"P{self._number}({', '.join(parameters)})", "{", *declared, *([""] if declared else []), *body, "}"]

    def _emit(self, index: int, action: Action) -> None:
        match action:
            case Read(place, value, order, depends):
                where = self._where(place, depends)
                call = f"READ_ONCE({where})" if order is Order.PLAIN else f"smp_load_acquire({where.removeprefix('*')})"
                self._results[index] = self._result(place, call, value)
            case Write(place, value, order, depends):
                self._write(place, self._where(place, depends), value, order)
            case Update(place, old, new, order):
                values = f"{self._constant(place, old)}, {self._constant(place, new)}"
                self._where(place, None)
                self._result(place, f"cmpxchg{_SUFFIX[order]}({place}, {values})", old)
            case Lock(place, order):
                self._where(place, None)
                self._result(place, f"xchg{_SUFFIX[order]}({place}, 1)", 0)
            case Unlock(place, order):
                self._write(place, self._where(place, None), 0, order)
            case Ordering(kind):
                if kind in _BARRIERS:
                    self._code.append(f"{_BARRIERS[kind]}()")
            case Execute(place, taken):
                self._result(place, f"READ_ONCE({self._where(place, None)})", int(taken))
            case Maintain():
                pass

    def _write(self, place: str, where: str, value: int, order: Order) -> None:
        constant = self._constant(place, value)
        if order is Order.PLAIN:
            self._code.append(f"WRITE_ONCE({where}, {constant})")
        else:
            self._code.append(f"smp_store_release({where.removeprefix('*')}, {constant})")

    def _where(self, place: str, depends: int | None) -> str:
        if place == FREED_PLACE and depends in self._results:
            return f"*{self._results[depends]}"
        self._places[place] = None
        return f"*{place}"

    def _constant(self, place: str, value: int) -> str:
        text = _value(self._pointers, place, value)
        if not text.isdigit():
            self._others[text] = None
        return text

    def _result(self, place: str, call: str, value: int) -> str:
        register = f"r{len(self._registers)}"
        self._registers.append(f"*{register}" if place in self._pointers else register)
        self._code.append(f"{register} = {call}")
        self.conditions.append(f"{self._number}:{register}={_value(self._pointers, place, value)}")
        return register
