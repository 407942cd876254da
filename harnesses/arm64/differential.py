"""Compares each AArch64 instruction that fuzzvm supports with Unicorn's, on random registers and memory.

    python -m harnesses.arm64.differential --instructions 1000000
    python -m harnesses.arm64.differential --object vmalloc.o --object mmu.o

Without objects, words are drawn from all classes of integer encodings. With them, each instruction of their code is
tried, as the assembler left it. Every trial runs the generated code in one of its ways (accesses answered by the
caller or done as private memory, with dependencies or without), and compares registers, flags and memory after one
instruction. Exit status 1 if anything differs.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from fuzzvm.compiled.arm64 import registers
from fuzzvm.compiled.arm64.decode import decode
from fuzzvm.compiled.arm64.semantics import BUILDERS
from fuzzvm.compiled.isa.access import Access, Answer
from fuzzvm.compiled.isa.effects import Kind
from fuzzvm.compiled.isa.engine import Code, Halt
from fuzzvm.compiled.isa.expressions import Constant
from fuzzvm.compiled.isa.generate import Tracking
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from harnesses.arm64.encodings import PATTERNS, word
from harnesses.arm64.oracle import COMPARED, Oracle
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

_CODE = WINDOW + 0x10000
_ARMING = WINDOW + 0x20000
_CLREX = 0xD5033F5F
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 32, 1 << 63, (1 << 63) - 1, (1 << 64) - 1)
_STACK = frozenset({Kind.LOAD, Kind.STORE})


class Subject:
    """An instruction that is tried, as code of its own."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.plain, self.tracked = (
            Code(lambda _: instruction, stops=(instruction.address + 4,), tracking=tracking)
            for tracking in (None, Tracking())
        )

    @property
    def kind(self) -> Kind | None:
        """The kind of its access, or None if it is local."""
        return None if self.instruction.request is None else self.instruction.request.kind

    def access(self, state: list[int]) -> Access:
        """Return its access."""
        return self.plain.access(state)

    def address(self, state: list[int]) -> int:
        """Return the address that it accesses."""
        address = self.access(state).address
        assert address is not None
        return address


def form(text: str) -> str:
    """Return the form of an instruction: its text with registers and numbers blotted out."""
    text = re.sub(r"\b([wx])\d+\b", r"\1", text)
    return re.sub(r"#-?(0x)?[0-9a-f]+", "#", text)


def compare(oracle: Oracle, code: int, draw: random.Random, trials: int, report: Report) -> None:
    """Try one word several times, and enter what is found into the report."""
    try:
        instruction = decode(code, _CODE)
    except UnsupportedInstructionError as error:
        report.refused[error.text.split(" ")[0]] += 1
        return
    kind = form(instruction.text)
    try:
        placed = _placed(instruction)
        if placed is None:
            report.only_here[kind] += 1
            return
        subject = Subject(placed)
        oracle.put_code(subject.instruction.address, code)
        for _ in range(trials):
            if not _trial(oracle, subject, draw):
                report.only_here[kind] += 1
                return
            report.forms[kind] += 1
    except MismatchError as error:
        report.mismatches.setdefault(kind, f"{code:#010x} {instruction.text}: {error}")


def _placed(instruction: Instruction) -> Instruction | None:
    """Return the instruction where a literal that it loads lies in the window, or None if it loads itself."""
    request = instruction.request
    if request is None or request.kind is not Kind.LOAD or not isinstance(request.address, Constant):
        return instruction
    distance = request.address.value - instruction.address
    if -8 < distance < 4:
        return None
    # at an end of the window, so that the instruction is outside of it
    literal = WINDOW + (0 if distance > 0 else WINDOW_SIZE - 8)
    return decode(instruction.word, literal - distance)


def _value(draw: random.Random) -> int:
    match draw.randrange(4):
        case 0:
            return draw.choice(_EXTREMES)
        case 1:
            return draw.getrandbits(draw.randrange(1, 65))
    return draw.getrandbits(64)


def _state(subject: Subject, draw: random.Random) -> list[int] | None:
    """Return a random register file with which the instruction's access lies in the window, or None if none does."""
    instruction = subject.instruction
    state = [_value(draw) for _ in range(registers.COUNT)]
    if draw.randrange(4) == 0:
        # equal values, for comparisons
        state[:31] = [draw.choice((state[0], state[1], state[0] + 1 & registers.MASK64)) for _ in range(31)]
    state[registers.FLAGS] = draw.randrange(16)
    state[registers.DAIF] = draw.randrange(16) << 6
    state[registers.PC] = instruction.address
    request = instruction.request
    if request is None or request.address is None or not instruction.address_reads or not request.size:
        return state
    size = request.size * request.count
    target = WINDOW + draw.randrange(64, WINDOW_SIZE - 64 - 2 * size)
    if request.kind not in _STACK or not request.may_be_private or draw.randrange(2):
        target -= target % size
    for slot in sorted(instruction.address_reads):
        trial = list(state)
        trial[slot] = trial[slot] + target - subject.address(state) & registers.MASK64
        if subject.address(trial) == target:
            return trial
    return None


def _trial(oracle: Oracle, subject: Subject, draw: random.Random) -> bool:
    """Compare one execution. Return False if Unicorn cannot be asked. Raises MismatchError."""
    instruction, kind = subject.instruction, subject.kind
    if kind in (Kind.SYSTEM_WRITE, Kind.ADDRESS_TRANSLATE):
        # what these change is not of the register file, and may be how Unicorn reads memory
        return False
    if _is_signed(subject) and instruction.data_reads & instruction.address_reads:
        # see `_memory_for`: the operand is the address and cannot be chosen
        return False
    state = _state(subject, draw)
    if state is None:
        return False
    before = draw.randbytes(WINDOW_SIZE)
    armed = False
    if kind is Kind.EXCLUSIVE_STORE:
        armed = _arm(oracle, subject, state, before, draw)
    if kind in (Kind.ATOMIC, Kind.COMPARE_AND_SWAP):
        before = _memory_for(subject, state, before, draw)
    oracle.put(state, before)
    try:
        expected, after = oracle.step(instruction.address)
    except RefusedError as error:
        if kind in (Kind.BREAK, Kind.SYSTEM_READ, Kind.TLB_INVALIDATE, Kind.DATA_CACHE, Kind.INSTRUCTION_CACHE):
            return False
        if "tpidr_el2" in instruction.text:
            return False
        raise MismatchError(f"Unicorn refuses it: {error}") from None
    if kind is Kind.BREAK:
        raise MismatchError("Unicorn takes no exception")
    window = Window(before)
    found = list(state)
    _execute(subject, found, window, expected, draw, armed=armed)
    for slot, value in zip(COMPARED, expected, strict=True):
        if found[slot] != value:
            raise MismatchError(
                f"{registers.NAMES[slot]} is {found[slot]:#x}, Unicorn has {value:#x}; before: "
                + " ".join(f"{registers.NAMES[at]}={state[at]:#x}" for at in sorted(instruction.reads | {slot}))
            )
    if window.data != after:
        raise MismatchError(f"memory is {window.data.hex()}, Unicorn has {after.hex()}; before: {before.hex()}")
    return True


def _arm(oracle: Oracle, subject: Subject, state: list[int], memory: bytes, draw: random.Random) -> bool:
    """Let Unicorn do the exclusive load that makes an exclusive store succeed, or CLREX. Return which."""
    armed = bool(draw.randrange(2))
    request = subject.instruction.request
    assert request is not None
    if armed:
        # the load of the same size at x0, into x2 and x3
        size = request.size.bit_length() - 1
        code = size << 30 | 0x085F7C02 if request.count == 1 else size << 30 | 0x087F0C02
        at = list(state)
        at[0] = subject.address(state)
    else:
        code, at = _CLREX, state
    oracle.put_code(_ARMING, code)
    oracle.put(at, memory)
    oracle.step(_ARMING)
    return armed


def _is_signed(subject: Subject) -> bool:
    """Return whether this is a signed minimum or maximum of less than 64 bits."""
    request = subject.instruction.request
    return request is not None and request.operation in ("smin", "smax") and request.size < 8


def _memory_for(subject: Subject, state: list[int], memory: bytes, draw: random.Random) -> bytes:
    """Return memory in which a compare and swap finds what it expects, half of the time.

    Unicorn 2.1 compares the operands of a signed minimum or maximum of less than 64 bits without their sign (QEMU has
    mended that since). For these, memory and the operand are made positive; what is negative is for a test by hand.
    """
    access, window = subject.access(state), Window(memory)
    request = access.request
    if access.expected and draw.randrange(2):
        for index, value in enumerate(access.expected):
            window.write(access.element(index), request.size, value)
    if _is_signed(subject):
        positive = (1 << 8 * request.size - 1) - 1
        for slot in access.instruction.data_reads:
            state[slot] &= positive
        window.write(access.element(0), request.size, window.read(access.element(0), request.size) & positive)
    return bytes(window.data)


def _execute(
    subject: Subject, x: list[int], window: Window, oracle: list[int], draw: random.Random, *, armed: bool
) -> None:
    """Execute the instruction here, in one of the ways that there are. Raises MismatchError if it does not behave."""
    tracked, private = draw.randrange(4) == 0, bool(draw.randrange(2))
    instruction, code = subject.instruction, subject.tracked if tracked else subject.plain
    views, picks = [0] * registers.COUNT, [0] * registers.COUNT
    none = NonePrivate()
    if tracked:
        halt = code.run_tracked(x, views, picks, AllPrivateTracked(window) if private else none, 1)
    else:
        halt = code.run(x, AllPrivate(window) if private else none, 1)
    request = instruction.request
    if request is None or (private and request.may_be_private):
        if halt is Halt.ACCESS:
            raise MismatchError(f"the run ended by {halt}")
        return
    if halt is not Halt.ACCESS or x[registers.PC] != instruction.address:
        raise MismatchError(f"the run ended by {halt} at {x[registers.PC]:#x}")
    access = code.access(x)
    response = _answer(access, window, oracle, armed=armed)
    if tracked:
        none_each = (0,) * request.count if request.count > 1 else 0
        code.complete_tracked(x, views, picks, access, response, none_each, none_each)
    else:
        code.complete(x, access, response)


def _answer(access: Access, window: Window, oracle: list[int], *, armed: bool) -> Answer:
    """Do what an access asks for in the window, and return the response."""
    request = access.request
    if request.kind is Kind.SYSTEM_READ:
        return oracle[COMPARED.index(next(iter(access.instruction.writes), 0))]
    if not request.size:
        return None
    elements = [access.element(index) for index in range(request.count)]
    old = tuple(window.read(element, request.size) for element in elements)
    new: tuple[int, ...] | None = None
    if request.kind is Kind.STORE or (request.kind is Kind.EXCLUSIVE_STORE and armed):
        new = access.values
    elif request.kind in (Kind.ATOMIC, Kind.COMPARE_AND_SWAP):
        new = access.updated(old)
    for element, value in zip(elements, new or (), strict=False):
        window.write(element, request.size, value)
    if request.kind is Kind.STORE:
        return None
    if request.kind is Kind.EXCLUSIVE_STORE:
        return 0 if armed else 1
    return old if request.count > 1 else old[0]


def code_of(path: Path) -> Iterator[int]:
    """Yield the words of all code in an object file, alternatives included."""
    with path.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR and section["sh_type"] == "SHT_PROGBITS":
                data = section.data()
                yield from (int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) - 3, 4))


def random_words(draw: random.Random) -> Iterator[int]:
    """Yield words of all classes in turn, without end."""
    while True:
        for pattern in PATTERNS.values():
            yield word(pattern, draw)


@click.command(help=__doc__)
@click.option("--instructions", default=100_000, show_default=True, help="How many to compare at least.")
@click.option("--trials", default=8, show_default=True, help="How often each word is tried in a row.")
@click.option("--seed", default=0, show_default=True)
@click.option("--object", "objects", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--forms", is_flag=True, help="Print each form and how often it was compared.")
def main(instructions: int, trials: int, seed: int, objects: tuple[Path, ...], forms: bool) -> None:
    draw, oracle, report = random.Random(seed), Oracle(), Report()
    begin = time.monotonic()
    while report.forms.total() < instructions:
        words = (code for path in objects for code in code_of(path)) if objects else random_words(draw)
        for code in words:
            compare(oracle, code, draw, trials, report)
            if not objects and report.forms.total() >= instructions:
                break
    if forms:
        for name, count in sorted(report.forms.items()):
            click.echo(f"{count:8} {name}")
    click.echo(f"{report.forms.total()} instructions of {len(report.forms)} forms in {time.monotonic() - begin:.0f} s")
    click.echo(f"refused: {dict(report.refused.most_common())}")
    click.echo(f"not compared: {dict(report.only_here.most_common())}")
    compared = {name.split(" ")[0] for name in report.forms}
    click.echo(f"supported mnemonics that never came up: {' '.join(sorted(BUILDERS.keys() - compared))}")
    for text in report.mismatches.values():
        click.echo(text)
    sys.exit(bool(report.mismatches))


if __name__ == "__main__":
    main()
