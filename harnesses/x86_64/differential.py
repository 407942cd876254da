"""Compares each x86_64 instruction that fuzzvm supports with Unicorn's, on random registers, flags and memory.

    python -m harnesses.x86_64.differential --instructions 1000000
    python -m harnesses.x86_64.differential --image out

Without an image, instructions are drawn from all kinds that kernel code uses. With one, each instruction of the code
that `fuzzvm image show` lists is tried. Every trial runs the generated code in one of its ways (accesses answered by
the caller or done as private memory, with dependencies or without), and compares registers, flags and memory after one
instruction; a flag that is undefined here is not compared. Exit status 1 if anything differs.
"""

from __future__ import annotations

import random
import re
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from fuzzvm.compiled.closure import close
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import load
from fuzzvm.compiled.isa.access import Answer
from fuzzvm.compiled.isa.effects import Flow, Kind
from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.generate import Tracking
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from fuzzvm.compiled.isa.slots import MASK32, MASK64, PC
from fuzzvm.compiled.x86_64 import registers
from fuzzvm.compiled.x86_64.decode import decode
from fuzzvm.compiled.x86_64.registers import FLAG_BITS, FLAGS, GS_BASE, RAX, RCX, RDX, UNDEFINED
from fuzzvm.compiled.x86_64.semantics import BUILDERS
from harnesses.window import (
    WINDOW,
    WINDOW_SIZE,
    AllPrivate,
    AllPrivateTracked,
    MismatchError,
    NonePrivate,
    RefusedError,
    Report,
    Window,
)
from harnesses.x86_64.encodings import KINDS
from harnesses.x86_64.oracle import COMPARED, Oracle

_CODE = WINDOW + 0x10000
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, (1 << 63) - 1, MASK64)
_NOT_TRIED = frozenset({Kind.BREAK, Kind.BARRIER})
_SCALES = 8
"""By how much an index is multiplied at most."""
_MARGIN = 64
"""Bytes at both ends of the window in which no access begins."""
_DETAILED = Cs(CS_ARCH_X86, CS_MODE_64)
_DETAILED.detail = True


class Subject:
    """An instruction that is tried, as code of its own."""

    def __init__(self, steps: tuple[Instruction, ...], code: bytes) -> None:
        self.steps = {step.address: step for step in steps}
        self.first, self.code = steps[0], code
        stops = {steps[-1].following}
        self.plain, self.tracked = (Code(self.steps.__getitem__, stops, tracking) for tracking in (None, Tracking()))
        self.repeats = self.first.text.startswith("rep ")

    @property
    def accesses(self) -> list[Instruction]:
        """Return the steps that access memory."""
        return [step for step in self.steps.values() if step.request is not None and step.request.address is not None]

    def address(self, step: Instruction, state: list[int]) -> int:
        """Return the address that a step accesses."""
        address = self.plain.access(state, step).address
        assert address is not None
        return address


def form(text: str) -> str:
    """Return the form of an instruction: its text with registers and numbers blotted out, but for their sizes."""
    mnemonic = next(name for name in sorted(BUILDERS, key=len, reverse=True) if f"{text} ".startswith(f"{name} "))
    parts = text[len(mnemonic) :].strip()
    for name in sorted(registers.PARTS, key=len, reverse=True):
        parts = re.sub(rf"\b{name}\b", f"r{8 * registers.PARTS[name][1]}", parts)
    parts = re.sub(r"-?\b(0x[0-9a-f]+|\d+)\b", "#", re.sub(r"\*\d", "", parts))
    return f"{mnemonic} {parts}".rstrip()


def compare(oracle: Oracle, code: bytes, draw: random.Random, trials: int, report: Report) -> None:
    """Try one instruction several times, and enter what is found into the report."""
    code = _placed(code)
    try:
        steps = decode(code, _CODE)
    except UnsupportedInstructionError as error:
        report.refused[error.text.split(" ")[0]] += 1
        return
    subject = Subject(steps, code[: steps[-1].following - _CODE])
    kind = form(subject.first.text)
    if any(step.request is not None and step.request.kind in _NOT_TRIED for step in steps):
        report.only_here[kind] += 1
        return
    oracle.put_code(_CODE, subject.code)
    try:
        for _ in range(trials):
            if not _trial(oracle, subject, draw):
                report.only_here[kind] += 1
                return
            report.forms[kind] += 1
    except MismatchError as error:
        report.mismatches.setdefault(kind, f"{subject.code.hex()} {subject.first.text}: {error}")


def _placed(code: bytes) -> bytes:
    """Return an instruction at `_CODE` whose operand relative to it lies in the window."""
    found: Any = next(_DETAILED.disasm(code, _CODE, 1), None)
    if found is None or found.modrm_offset == 0 or found.modrm & 0xC7 != 5:
        return code
    distance = WINDOW + WINDOW_SIZE // 2 - (_CODE + int(found.size))
    at = int(found.modrm_offset) + 1
    return code[:at] + distance.to_bytes(4, "little", signed=True) + code[at + 4 :]


def _values(draw: random.Random) -> list[int]:
    """Return a value for each slot: any, of a random number of bits, or an extreme one."""
    kinds = draw.getrandbits(2 * registers.COUNT)
    values = list(struct.unpack(f"<{registers.COUNT}Q", draw.randbytes(8 * registers.COUNT)))
    for slot, value in enumerate(values):
        kind = kinds >> 2 * slot & 3
        if kind == 0:
            values[slot] = _EXTREMES[value % len(_EXTREMES)]
        elif kind == 1:
            values[slot] = value >> value % 64
    return values


def _state(subject: Subject, draw: random.Random) -> list[int] | None:
    """Return a random register file with which the instruction's accesses lie in the window, or None if none does."""
    state = _values(draw)
    if draw.randrange(4) == 0:
        # equal values, for comparisons
        state[:16] = [draw.choice((state[0], state[1], state[0] + 1 & MASK64)) for _ in range(16)]
    drawn = draw.getrandbits(len(FLAG_BITS))
    for index, slot in enumerate(FLAG_BITS):
        state[slot] = drawn >> index & 1
    # canonical, as the CPU has it
    state[GS_BASE] = draw.getrandbits(46)
    state[PC] = subject.first.address
    if subject.first.text.startswith("lock cmpxchg dword"):
        # Unicorn 2.1 clears the upper half of RAX also where the values are equal (QEMU has mended that since)
        state[RAX] &= MASK32
    if subject.repeats:
        state[RCX] = draw.randrange(4)
    if subject.first.text.startswith("div ") and draw.randrange(2):
        # most divisions by any number trap
        state[RDX] = 0
    for step in subject.accesses:
        if not _place(subject, step, state, draw):
            return None
    return state if all(_is_inside(subject.address(step, state)) for step in subject.accesses) else None


def _is_inside(address: int) -> bool:
    return WINDOW + _MARGIN <= address < WINDOW + WINDOW_SIZE - _MARGIN


def _place(subject: Subject, step: Instruction, state: list[int], draw: random.Random) -> bool:
    """Change a register so that a step accesses the window; return whether one does that."""
    if _is_inside(subject.address(step, state)):
        return True
    first = WINDOW + draw.randrange(_MARGIN, WINDOW_SIZE - _MARGIN - _SCALES)
    for slot in sorted(step.address_reads):
        for target in range(first, first + _SCALES):
            trial = list(state)
            distance = target - subject.address(step, state)
            trial[slot] = trial[slot] + distance & MASK64
            if subject.address(step, trial) != target and distance % _SCALES == 0:
                # an index counts several times
                found = (each for each in (2, 4, 8) if distance % each == 0)
                for scale in found:
                    trial[slot] = state[slot] + distance // scale & MASK64
                    if subject.address(step, trial) == target:
                        break
            if subject.address(step, trial) == target and (slot != GS_BASE or _is_canonical(trial[slot])):
                state[:] = trial
                return True
    return False


def _is_canonical(address: int) -> bool:
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)


def _trial(oracle: Oracle, subject: Subject, draw: random.Random) -> bool:
    """Compare one execution. Return False if Unicorn cannot be asked. Raises MismatchError."""
    state = _state(subject, draw)
    if state is None:
        return False
    before = draw.randbytes(WINDOW_SIZE)
    window = Window(before)
    for step in subject.accesses:
        access = subject.plain.access(state, step)
        if access.expected and draw.randrange(2):
            window.write(access.element(0), access.request.size, access.expected[0])
    before = bytes(window.data)
    oracle.put(state, before)
    divides = subject.first.text.startswith("div ")
    try:
        expected, after = oracle.step(_CODE, len(subject.code), repeats=subject.repeats)
    except RefusedError as error:
        if not divides:
            raise MismatchError(f"Unicorn refuses it: {error}") from None
        trapped = True
    else:
        # it does not always say so
        trapped = divides and expected[COMPARED.index(PC)] == _CODE
    if trapped:
        if not _traps(subject, state, window, draw):
            raise MismatchError("it traps in Unicorn")
        return True
    found = list(state)
    try:
        _execute(subject, found, window, draw)
    except ImageError as error:
        if divides:
            raise MismatchError(f"{error}, and does not in Unicorn") from None
        # the result is one of several: nothing to compare
        return True
    for slot, value in zip(COMPARED, expected, strict=True):
        if found[slot] != value and not (slot in FLAGS and found[slot] == UNDEFINED):
            reads = {slot}.union(*(step.reads for step in subject.steps.values()))
            raise MismatchError(
                f"{registers.NAMES[slot]} is {found[slot]:#x}, Unicorn has {value:#x}; before: "
                + " ".join(f"{registers.NAMES[at]}={state[at]:#x}" for at in sorted(reads))
            )
    if window.data != after:
        raise MismatchError(f"memory is {window.data.hex()}, Unicorn has {after.hex()}; before: {before.hex()}")
    return True


def _traps(subject: Subject, state: list[int], window: Window, draw: random.Random) -> bool:
    try:
        _execute(subject, list(state), window, draw)
    except ImageError:
        return True
    return False


def _execute(subject: Subject, x: list[int], window: Window, draw: random.Random) -> None:
    """Execute the instruction here, in one of the ways that there are. Raises MismatchError if it does not behave."""
    tracked, private = draw.randrange(4) == 0, bool(draw.randrange(2))
    code = subject.tracked if tracked else subject.plain
    views, picks = [0] * registers.COUNT, [0] * registers.COUNT
    none = NonePrivate()
    begun = False
    while x[PC] in subject.steps and not (begun and x[PC] == _CODE and not subject.repeats):
        begun = True
        step = subject.steps[x[PC]]
        if tracked:
            halt = code.run_tracked(x, views, picks, AllPrivateTracked(window) if private else none, 1)
        else:
            halt = code.run(x, AllPrivate(window) if private else none, 1)
        if halt is not Halt.ACCESS:
            continue
        step = subject.steps[x[PC]]
        request = step.request
        if request is None or (private and request.may_be_private):
            raise MismatchError(f"the run ended by {halt}")
        access = code.access(x)
        address = access.element(0)
        old = window.read(address, request.size)
        response: Answer = None if request.kind is Kind.STORE else old
        new = access.values if request.kind is Kind.STORE else None
        if request.kind in (Kind.ATOMIC, Kind.COMPARE_AND_SWAP):
            new = access.updated((old,))
        if new:
            window.write(address, request.size, new[0])
        if tracked:
            code.complete_tracked(x, views, picks, access, response, 0, 0)
        else:
            code.complete(x, access, response)
        branch = step.branch
        if branch is not None and (branch.flow is not Flow.JUMP or not subject.repeats):
            return


def code_of(folder: Path) -> Iterator[bytes]:
    """Yield the instructions of an image that the usual entries reach."""
    from fuzzvm.cli.commands.image import ENTRIES

    image = load(folder)
    entries = []
    for name in ENTRIES:
        try:
            entries.append(image.function(name))
        except ImageError:
            continue
    for lines in close(image, entries).lines.values():
        yield from (image.read(line.address, line.size) for line in lines)


def random_code(draw: random.Random) -> Iterator[bytes]:
    """Yield instructions of all kinds in turn, without end."""
    while True:
        for kind in KINDS.values():
            yield kind(draw)


@click.command(help=__doc__)
@click.option("--instructions", default=100_000, show_default=True, help="How many to compare at least.")
@click.option("--trials", default=8, show_default=True, help="How often each instruction is tried in a row.")
@click.option("--seed", default=0, show_default=True)
@click.option("--image", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--forms", is_flag=True, help="Print each form and how often it was compared.")
def main(instructions: int, trials: int, seed: int, image: Path | None, forms: bool) -> None:
    draw, oracle, report = random.Random(seed), Oracle(), Report()
    begin = time.monotonic()
    while report.forms.total() < instructions:
        for code in code_of(image) if image else random_code(draw):
            compare(oracle, code, draw, trials, report)
            if report.forms.total() >= instructions:
                break
    if forms:
        for name, count in sorted(report.forms.items()):
            click.echo(f"{count:8} {name}")
    click.echo(f"{report.forms.total()} instructions of {len(report.forms)} forms in {time.monotonic() - begin:.0f} s")
    click.echo(f"refused: {dict(report.refused.most_common())}")
    click.echo(f"not compared: {dict(report.only_here.most_common())}")
    compared = {name for name in BUILDERS if any(f"{each} ".startswith(f"{name} ") for each in report.forms)}
    click.echo(f"supported mnemonics that never came up: {' '.join(sorted(BUILDERS.keys() - compared))}")
    for text in report.mismatches.values():
        click.echo(text)
    sys.exit(bool(report.mismatches))


if __name__ == "__main__":
    main()
