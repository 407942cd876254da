"""What each AArch64 instruction does to a `state.ThreadRun`: one function builds the step of one instruction.

A step returns None where the run goes on in one way (it has been changed in place and stands at its next
instruction), else the list of runs to go on with. Which registers an effect depends on, and how (data, address,
control, pick), follows the Arm ARM's B2.3.3 dependencies and, where it leaves a choice, herd7's intra-instruction
causality.
"""

from __future__ import annotations

from collections.abc import Callable

from fuzzvm.litmus import entries
from fuzzvm.litmus.access import Accesses
from fuzzvm.litmus.encoding import MASK32, MASK64, Encoding
from fuzzvm.litmus.interest import Interest
from fuzzvm.litmus.operands import check_widths, read, register, source, unsupported
from fuzzvm.litmus.program import Instruction, LitmusError, Name, Operand, Relative, Test, Thread
from fuzzvm.litmus.registers import is_read_after
from fuzzvm.litmus.state import EXCEPTION_LINK, FLAGS, LINK, ZERO, Position, Register, ThreadRun
from fuzzvm.litmus.translated import Taken, TranslatedAccesses
from fuzzvm.machine.ops import Barrier

Step = Callable[[ThreadRun], "list[ThreadRun] | None"]

_DOMAINS = ("ISH", "OSH")

_CONDITIONS: dict[str, Callable[[int], bool]] = {
    "EQ": lambda f: bool(f & 4),
    "NE": lambda f: not f & 4,
    "CS": lambda f: bool(f & 2),
    "HS": lambda f: bool(f & 2),
    "CC": lambda f: not f & 2,
    "LO": lambda f: not f & 2,
    "MI": lambda f: bool(f & 8),
    "PL": lambda f: not f & 8,
    "VS": lambda f: bool(f & 1),
    "VC": lambda f: not f & 1,
    "HI": lambda f: bool(f & 2) and not f & 4,
    "LS": lambda f: not f & 2 or bool(f & 4),
    "GE": lambda f: bool(f & 8) == bool(f & 1),
    "LT": lambda f: bool(f & 8) != bool(f & 1),
    "GT": lambda f: not f & 4 and bool(f & 8) == bool(f & 1),
    "LE": lambda f: bool(f & 4) or bool(f & 8) != bool(f & 1),
    "AL": lambda f: True,
}

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "ADD": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "AND": lambda a, b: a & b,
    "ORR": lambda a, b: a | b,
    "EOR": lambda a, b: a ^ b,
    "BIC": lambda a, b: a & ~b,
    "ORN": lambda a, b: a | ~b,
    "EON": lambda a, b: a ^ ~b,
    "LSL": lambda a, b: a << b,
    "LSR": lambda a, b: a >> b,
}

_BUILT = frozenset(
    {
        *("MOV", "MOVZ", "SXTW", "UXTW", "CMP", "CSEL", "CSINC", "CSET", "ADR", "MSR"),
        *("B", "CBZ", "CBNZ", "BL", "BR", "BLR", "RET", "ERET"),
        *("NOP", "ISB", "DMB", "DSB", "DC", "IC", "TLBI"),
    }
)
"""Mnemonics that have a method of the compiler's; a file cannot name any other of its members."""


class Compiler:
    """Builds steps for the code of one test. `taken` sets a run on from a fault of an access."""

    def __init__(self, test: Test, values: Encoding, taken: Taken) -> None:
        self._threads = test.threads
        self._handlers = test.handlers
        self._values = values
        self._accesses = Accesses(values, self._is_read_after)
        if test.translation is not None:
            self._accesses = TranslatedAccesses(test, values, self._is_read_after, taken)
        self.loads = self._accesses.loads
        """(thread, location) of each load that any run has done."""

    def mask(self, location: int) -> int:
        """Return what part of a location all accesses so far were to."""
        return self._accesses.masks.get(location, MASK64)

    def ask(self, interest: Interest) -> None:
        """Explore only what is of interest, as far as it can be told; see `interest`."""
        self._accesses.interest = interest

    def _is_read_after(self, position: Position, register: int) -> bool:
        """Return whether a register that an instruction writes may be read before it is written again."""
        return is_read_after(self.thread(position[0]), position[1], register)

    def thread(self, owner: int) -> Thread:
        """Return the code that a position's first number names; -1 - n is the fault handler of thread n."""
        return self._threads[owner] if owner >= 0 else self._handlers[-1 - owner]

    def step(self, instruction: Instruction, position: Position) -> Step:
        """Return the step of an instruction at a position. Raises LitmusError if it is not supported."""
        mnemonic, _, suffix = instruction.mnemonic.partition(".")
        following = (position[0], position[1] + 1)
        try:
            if suffix:
                return self._conditional(mnemonic, suffix, instruction, position)
            if mnemonic in _ARITHMETIC:
                return self._arithmetic(mnemonic, instruction, following)
            if mnemonic in _BUILT:
                step: Step = getattr(self, f"_{mnemonic.lower()}")(instruction, position)
                return step
            access = self._accesses.step(instruction, position)
            if access is not None:
                return access
        except (IndexError, ValueError):
            raise unsupported(instruction) from None
        raise unsupported(instruction)

    # Arithmetic

    def _arithmetic(self, mnemonic: str, instruction: Instruction, following: Position) -> Step:
        target, mask = register(instruction.operands[0], instruction)
        check_widths(instruction.operands[: 3 if len(instruction.operands) == 3 else 2], instruction)
        left = read(*register(instruction.operands[1], instruction), instruction)
        right = source(instruction.operands[2:], instruction)
        compute = _ARITHMETIC[mnemonic]
        if isinstance(self._accesses, TranslatedAccesses):
            compute = _of_entries(mnemonic, compute, instruction)
        if mnemonic in ("LSL", "LSR"):
            # LSLV and LSRV take the amount modulo the width of the register (Arm ARM C6.2)
            right = _modulo(right, 32 if mask == MASK32 else 64)

        def step(run: ThreadRun) -> None:
            a, view, pick = left(run)
            b, view2, pick2 = right(run)
            if target is not None:
                run.registers[target] = (
                    compute(a, b) & mask,
                    view if view > view2 else view2,
                    pick if pick > pick2 else pick2,
                )
            run.position = following

        return step

    def _mov(self, instruction: Instruction, position: Position) -> Step:
        target, mask = register(instruction.operands[0], instruction)
        check_widths(instruction.operands if len(instruction.operands) == 2 else (), instruction)
        get = source(instruction.operands[1:], instruction)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            value, view, pick = get(run)
            if target is not None:
                run.registers[target] = (value & mask, view, pick)
            run.position = following

        return step

    def _movz(self, instruction: Instruction, position: Position) -> Step:
        return self._mov(instruction, position)

    def _sxtw(self, instruction: Instruction, position: Position) -> Step:
        extension = (instruction.operands[1], Name("SXTW"))
        if len(instruction.operands) != 2:
            raise unsupported(instruction)
        return self._mov(Instruction("MOV", (instruction.operands[0], *extension), instruction.line), position)

    def _uxtw(self, instruction: Instruction, position: Position) -> Step:
        extension = (instruction.operands[1], Name("UXTW"))
        if len(instruction.operands) != 2:
            raise unsupported(instruction)
        return self._mov(Instruction("MOV", (instruction.operands[0], *extension), instruction.line), position)

    def _cmp(self, instruction: Instruction, position: Position) -> Step:
        left, mask = register(instruction.operands[0], instruction)
        check_widths(instruction.operands if len(instruction.operands) == 2 else (), instruction)
        get = read(left, mask, instruction)
        right = source(instruction.operands[1:], instruction)
        following = (position[0], position[1] + 1)
        sign = (mask >> 1) + 1

        def step(run: ThreadRun) -> None:
            a, view, pick = get(run)
            b, view2, pick2 = right(run)
            b &= mask
            result = (a - b) & mask
            flags = (
                (8 if result & sign else 0)
                | (0 if result else 4)
                | (2 if a >= b else 0)
                | (1 if (a ^ b) & (a ^ result) & sign else 0)
            )
            run.registers[FLAGS] = (flags, max(view, view2), max(pick, pick2))
            run.position = following

        return step

    def _select(
        self,
        instruction: Instruction,
        position: Position,
        yes: Callable[[ThreadRun], Register],
        no: Callable[[ThreadRun], Register],
        condition: Operand,
    ) -> Step:
        target, mask = register(instruction.operands[0], instruction)
        check_widths(instruction.operands[:-1], instruction)
        holds = _condition(condition, instruction)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            flags, _, flags_pick = run.registers[FLAGS]
            # The value depends on the chosen register; on the flags there is a pick dependency only.
            value, view, pick = yes(run) if holds(flags) else no(run)
            if target is not None:
                run.registers[target] = (value & mask, view, max(pick, flags_pick))
            run.position = following

        return step

    def _csel(self, instruction: Instruction, position: Position) -> Step:
        _, first, second, condition = instruction.operands
        yes = read(*register(first, instruction), instruction)
        no = read(*register(second, instruction), instruction)
        return self._select(instruction, position, yes, no, condition)

    def _csinc(self, instruction: Instruction, position: Position) -> Step:
        _, first, second, condition = instruction.operands
        yes = read(*register(first, instruction), instruction)
        no = read(*register(second, instruction), instruction)

        def incremented(run: ThreadRun) -> Register:
            value, view, pick = no(run)
            return value + 1, view, pick

        return self._select(instruction, position, yes, incremented, condition)

    def _cset(self, instruction: Instruction, position: Position) -> Step:
        _, condition = instruction.operands
        return self._select(instruction, position, lambda run: (1, 0, 0), lambda run: ZERO, condition)

    def _adr(self, instruction: Instruction, position: Position) -> Step:
        target, mask = register(instruction.operands[0], instruction)
        _, operand = instruction.operands
        owner = position[0] if position[0] >= 0 else -1 - position[0]  # a handler's labels are its thread's
        address = self._values.code_address(*self._target(operand, instruction, (owner, position[1])))
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            if target is not None:
                run.registers[target] = (address & mask, 0, 0)
            run.position = following

        return step

    # Branches

    def _target(self, operand: Operand, instruction: Instruction, position: Position) -> Position:
        if isinstance(operand, Relative):
            target = (position[0], position[1] + operand.offset // 4)
            if operand.offset % 4 == 0 and 0 <= target[1] <= len(self.thread(position[0]).code):
                return target
        if isinstance(operand, Name):
            labels = self.thread(position[0]).labels
            if operand.text in labels:
                return position[0], labels[operand.text]
        raise LitmusError(f"no such label in {instruction}", instruction.line)

    def _b(self, instruction: Instruction, position: Position) -> Step:
        (operand,) = instruction.operands
        target = self._target(operand, instruction, position)

        def step(run: ThreadRun) -> None:
            run.position = target

        return step

    def _conditional(self, mnemonic: str, suffix: str, instruction: Instruction, position: Position) -> Step:
        if mnemonic != "B":
            raise unsupported(instruction)
        (operand,) = instruction.operands
        target = self._target(operand, instruction, position)
        holds = _condition(Name(suffix), instruction)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            flags, _, pick = run.registers[FLAGS]
            run.views.branched(pick)
            run.position = target if holds(flags) else following

        return step

    def _compare_branch(self, instruction: Instruction, position: Position, *, zero: bool) -> Step:
        tested, operand = instruction.operands
        get = read(*register(tested, instruction), instruction)
        target = self._target(operand, instruction, position)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            value, _, pick = get(run)
            run.views.branched(pick)
            run.position = target if (value == 0) is zero else following

        return step

    def _cbz(self, instruction: Instruction, position: Position) -> Step:
        return self._compare_branch(instruction, position, zero=True)

    def _cbnz(self, instruction: Instruction, position: Position) -> Step:
        return self._compare_branch(instruction, position, zero=False)

    def _bl(self, instruction: Instruction, position: Position) -> Step:
        (operand,) = instruction.operands
        target = self._target(operand, instruction, position)
        link = self._values.code_address(position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            run.registers[LINK] = (link, 0, 0)
            run.position = target

        return step

    def _indirect(self, instruction: Instruction, number: int | None, link: int | None) -> Step:
        get = read(number, MASK64, instruction)

        def step(run: ThreadRun) -> None:
            value, _, pick = get(run)
            target = self._values.code_index(value)
            if target is None:
                raise LitmusError(f"branch to {self._values.show(value)} in {instruction}", instruction.line)
            run.views.branched(pick)
            if link is not None:
                run.registers[LINK] = (link, 0, 0)
            run.position = target

        return step

    def _br(self, instruction: Instruction, position: Position) -> Step:
        (operand,) = instruction.operands
        return self._indirect(instruction, register(operand, instruction)[0], None)

    def _blr(self, instruction: Instruction, position: Position) -> Step:
        (operand,) = instruction.operands
        link = self._values.code_address(position[0], position[1] + 1)
        return self._indirect(instruction, register(operand, instruction)[0], link)

    def _ret(self, instruction: Instruction, position: Position) -> Step:
        number = register(instruction.operands[0], instruction)[0] if instruction.operands else LINK
        return self._indirect(instruction, number, None)

    # System

    def _nop(self, instruction: Instruction, position: Position) -> Step:
        if instruction.operands:
            raise unsupported(instruction)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            run.position = following

        return step

    def _isb(self, instruction: Instruction, position: Position) -> Step:
        following = (position[0], position[1] + 1)
        if instruction.operands not in ((), (Name("SY"),)):
            raise unsupported(instruction)

        def step(run: ThreadRun) -> None:
            run.views.fence(Barrier.ISB)
            run.position = following

        return step

    def _dmb(self, instruction: Instruction, position: Position) -> Step:
        kind = _barrier("DMB", instruction)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            if kind is not None:
                run.views.fence(kind)
            run.position = following

        return step

    def _dsb(self, instruction: Instruction, position: Position) -> Step:
        kind = _barrier("DSB", instruction)
        if kind is None and isinstance(self._accesses, TranslatedAccesses):
            # what it completes of a TLBI is not modelled
            raise unsupported(instruction)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            run.position = following
            if kind is not None:
                run.views.fence(kind)
            if kind is Barrier.DSB_ISH and run.views.invalidations:
                return self._accesses.complete(run)
            return None

        return step

    def _dc(self, instruction: Instruction, position: Position) -> Step:
        return self._accesses.maintain(instruction, position, "CVAU")

    def _ic(self, instruction: Instruction, position: Position) -> Step:
        return self._accesses.maintain(instruction, position, "IVAU")

    def _tlbi(self, instruction: Instruction, position: Position) -> Step:
        if not isinstance(self._accesses, TranslatedAccesses):
            raise unsupported(instruction)
        return self._accesses.invalidate(instruction, position)

    def _msr(self, instruction: Instruction, position: Position) -> Step:
        system, source = instruction.operands
        if not isinstance(system, Name) or system.text.upper() != "ELR_EL1":
            raise unsupported(instruction)
        get = read(*register(source, instruction), instruction)
        following = (position[0], position[1] + 1)

        def step(run: ThreadRun) -> None:
            run.registers[EXCEPTION_LINK] = get(run)
            run.position = following

        return step

    def _eret(self, instruction: Instruction, position: Position) -> Step:
        if instruction.operands:
            raise unsupported(instruction)
        jump = self._indirect(instruction, EXCEPTION_LINK, None)

        def step(run: ThreadRun) -> list[ThreadRun] | None:
            run.views.context_synchronisation()
            return jump(run)

        return step


def _condition(operand: Operand, instruction: Instruction) -> Callable[[int], bool]:
    if isinstance(operand, Name) and operand.text.upper() in _CONDITIONS:
        return _CONDITIONS[operand.text.upper()]
    raise unsupported(instruction)


def _of_entries(
    mnemonic: str, compute: Callable[[int, int], int], instruction: Instruction
) -> Callable[[int, int], int]:
    """Return an operation that knows page-table values."""

    def computed(left: int, right: int) -> int:
        if entries.is_entry(left) or entries.is_entry(right):
            return entries.compute(mnemonic, left, right, instruction)
        return compute(left, right)

    return computed


def _modulo(get: Callable[[ThreadRun], Register], bits: int) -> Callable[[ThreadRun], Register]:
    """Return the reader of an amount to shift by, taken modulo a register's width."""

    def amount(run: ThreadRun) -> Register:
        value, view, pick = get(run)
        return value % bits, view, pick

    return amount


def _barrier(family: str, instruction: Instruction) -> Barrier | None:
    """Return the kind of a DMB or DSB, None for one that orders nothing here.

    All threads share one inner-shareable domain, so that OSH, ISH and SY are alike. A barrier for the non-shareable
    domain orders nothing that another CPU sees (Arm ARM, "Shareability and access limitations on the data barrier
    operations"; herd7 7.58). AARCH-24234 of 2026 makes it as strong as the others for memory: Never here is Never
    there, too.
    """
    (operand,) = instruction.operands
    if not isinstance(operand, Name):
        raise unsupported(instruction)
    option = operand.text.upper()
    if option == "SY":
        return Barrier[f"{family}_ISH"]
    if option in ("LD", "ST"):
        return Barrier[f"{family}_ISH{option}"]
    if option in ("NSH", "NSHLD", "NSHST"):
        return None
    if option[:3] in _DOMAINS and option[3:] in ("", "LD", "ST"):
        return Barrier[f"{family}_ISH{option[3:]}"]
    raise unsupported(instruction)
