"""The addresses that a function's code puts together, and hands on or accesses.

Compilers add to the address of one variable to come to another (section anchors), so that an instruction that makes an
address does not say what the code refers to. This is the constant propagation of a compiler: forward over the control
flow, sets of values where paths join, for registers and for words on the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fuzzvm.compiled.arch import Line

_OPERAND = re.compile(r"(?:\[[^]]*\]!?|[^,\[]+)+")
_REGISTER = re.compile(r"\b[xw](\d+)\b")
_MEMORY = re.compile(r"\[(sp|x\d+)(?:, #(-?\w+))?\](!?)")
_NO_DESTINATION = re.compile(
    r"st(?!add|set|clr)\w*|prfm|cmp|cmn|tst|ccm[pn]|cbn?z|tbn?z|b\..*|bl?r?|ret|msr|dsb|dmb|brk"
)
"""Mnemonics whose first operand is not written to; STADD and its like have none that is."""
_ENDS = ("b", "ret", "br", "eret")
_ARGUMENTS, _RESULTS, _LOST = range(9), range(2), range(19)
"""A call passes on x0 to x8 (AAPCS64), and leaves nothing in x0 to x18; a function returns x0 and x1."""
_MOST = 16
"""The values of one register that are followed; a loop could make any number."""


@dataclass(frozen=True, slots=True)
class _Constant:
    """A value. ADRP alone makes a `page`, to which the rest is added."""

    value: int
    page: bool = False


_State = dict[int | str, frozenset[_Constant]]


def addresses(lines: Sequence[Line], jumps: Iterable[tuple[int, int]] = ()) -> set[tuple[int, bool]]:
    """Return the addresses that a function hands on, and those that it accesses itself, which have True beside them.

    `jumps` are edges of the control flow that the code does not show, as that of a static-key site that is off.
    """
    function = _Function(lines, dict(jumps))
    function.run()
    return function.found


class _Function:
    def __init__(self, lines: Sequence[Line], jumps: dict[int, int]) -> None:
        self._lines = {line.address: line for line in lines}
        self._jumps = jumps
        self._before: dict[int, _State] = {}
        self.found: set[tuple[int, bool]] = set()

    def run(self) -> None:
        """Go over the code until nothing changes; code that nothing leads to begins with nothing known."""
        for start in self._lines:
            if start in self._before:
                continue
            self._before[start] = {}
            todo = [start]
            while todo:
                address = todo.pop()
                state = dict(self._before[address])
                line = self._lines[address]
                self._step(line, state)
                for following in self._after(line):
                    if following in self._lines and self._join(following, state):
                        todo.append(following)

    def _after(self, line: Line) -> Iterable[int]:
        if line.mnemonic not in _ENDS:
            yield line.address + line.size
        if line.target is not None and not line.links:
            yield line.target
        if line.address in self._jumps:
            yield self._jumps[line.address]

    def _join(self, address: int, state: _State) -> bool:
        """Add what is known on one path to what is known at an address; return whether that is new."""
        if address not in self._before:
            self._before[address] = dict(state)
            return True
        known, changed = self._before[address], False
        for place, values in state.items():
            old = known.get(place, frozenset())
            new = old | values
            if new != old and len(new) <= _MOST:
                known[place] = new
                changed = True
        return changed

    def _pass_on(self, values: frozenset[_Constant]) -> None:
        self.found |= {(constant.value, False) for constant in values if not constant.page}

    def _step(self, line: Line, state: _State) -> None:
        """Follow one instruction: change the state, and note what is handed on."""
        operands = [operand.strip() for operand in _OPERAND.findall(line.operands)]
        numbers = [int(found[1]) if (found := _REGISTER.fullmatch(operand)) else None for operand in operands]
        mnemonic = line.mnemonic
        if mnemonic in ("adrp", "adr"):
            self._set(state, numbers[0], frozenset({_Constant(int(operands[1].lstrip("#"), 16), mnemonic == "adrp")}))
        elif (
            mnemonic in ("add", "sub") and len(operands) >= 3 and operands[2].startswith("#") and numbers[1] is not None
        ):
            offset = int(operands[2][1:], 0) << (12 if operands[3:] == ["lsl #12"] else 0)
            base = state.get(numbers[1], frozenset())
            added = offset if mnemonic == "add" else -offset
            self._set(state, numbers[0], frozenset(_Constant(constant.value + added) for constant in base))
        elif mnemonic == "mov" and len(operands) == 2 and numbers[1] is not None:
            self._set(state, numbers[0], state.get(numbers[1], frozenset()))
        else:
            self._other(line, operands, numbers, state)

    def _set(self, state: _State, register: int | str | None, values: frozenset[_Constant]) -> None:
        if register is None:
            return
        if values:
            state[register] = values
        else:
            state.pop(register, None)

    def _other(self, line: Line, operands: list[str], numbers: list[int | None], state: _State) -> None:
        mnemonic = line.mnemonic
        memory = next((found for operand in operands if (found := _MEMORY.fullmatch(operand))), None)
        offset = 0 if memory is None else int(memory[2] or "0", 0)
        if memory is not None and memory[1] != "sp":
            base = state.get(int(memory[1][1:]), frozenset())
            self.found |= {(constant.value + offset, True) for constant in base}
            if memory[3] or operands[-1].startswith("#"):
                # the base moves
                state.pop(int(memory[1][1:]), None)
        elif memory is None:
            # an index, or a form that is not known: what it names is used
            for operand in operands:
                if not _REGISTER.fullmatch(operand):
                    for number in _REGISTER.findall(operand):
                        self._pass_on(state.get(int(number), frozenset()))
        on_stack = (
            memory is not None and memory[1] == "sp" and not memory[3] and mnemonic in ("str", "ldr", "stp", "ldp")
        )
        writes = 2 if mnemonic in ("ldp", "ldpsw", "ldxp", "ldaxp") else 0 if _NO_DESTINATION.fullmatch(mnemonic) else 1
        for place, number in enumerate(numbers):
            if number is None:
                continue
            slot = f"sp+{offset + place * 8}"
            if place < writes:
                self._set(state, number, state.get(slot, frozenset()) if on_stack else frozenset())
            else:
                # a word on the stack may be a spilled register, or part of what is handed on by its address
                self._pass_on(state.get(number, frozenset()))
                if on_stack:
                    self._set(state, slot, state.get(number, frozenset()))
        leaves = line.links or mnemonic in ("ret", "br") or (mnemonic == "b" and line.target not in self._lines)
        if leaves:
            for number in _RESULTS if mnemonic == "ret" else _ARGUMENTS:
                self._pass_on(state.get(number, frozenset()))
        if line.links:
            for number in _LOST:
                state.pop(number, None)
