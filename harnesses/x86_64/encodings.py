"""Random x86_64 instructions of the kinds that compiled kernel code uses (Intel SDM vol. 2 appendix A)."""

from __future__ import annotations

import random
from collections.abc import Callable

_ALU = range(8)
_SHIFTS = (4, 5, 7)


def _modrm(draw: random.Random, number: int | None = None, *, memory: bool | None = None) -> bytes:
    """Return ModRM with SIB and displacement; `number` fixes the middle field, `memory` says what the operand is."""
    mode = draw.choice((0, 1, 2, 3)) if memory is None else draw.choice((0, 1, 2)) if memory else 3
    middle = draw.randrange(8) if number is None else number
    low = draw.randrange(8)
    found = bytes([mode << 6 | middle << 3 | low])
    if mode == 3:
        return found
    if low == 4:
        sib = draw.randrange(256)
        found += bytes([sib])
        if mode == 0 and sib & 7 == 5:
            return found + _number(draw, 4)
    elif mode == 0 and low == 5:
        # relative to the instruction pointer; the harness sets where to
        return found + bytes(4)
    return found + _number(draw, {0: 0, 1: 1, 2: 4}[mode])


def _number(draw: random.Random, size: int) -> bytes:
    """Return a displacement or immediate, small or an extreme half of the time."""
    if draw.randrange(2):
        return (
            draw.choice((0, 1, 2, 0x7F, 0x80, 0xFF, -1 % (1 << 8 * size))).to_bytes(4, "little")[:size] if size else b""
        )
    return draw.randbytes(size)


def _prefix(draw: random.Random, bits: int = 7) -> tuple[bytes, int]:
    """Return operand-size and REX prefixes, and the size of an immediate that goes with them.

    `bits` are those of REX that may be set: R is 4, and has no meaning where ModRM's field is part of the opcode.
    """
    kind, rex = draw.randrange(4), draw.randrange(8) & bits
    if kind < 2:
        return bytes([0x48 | rex]), 4
    short = bytes([0x40 | rex]) if draw.randrange(2) else b""
    return (b"\x66" + short, 2) if kind == 2 else (short, 4)


def _alu(draw: random.Random, lock: bool = False) -> bytes:
    prefix, _ = _prefix(draw)
    opcode = draw.choice(_ALU[:7] if lock else _ALU) << 3 | (draw.randrange(2) if lock else draw.randrange(4))
    return prefix + bytes([opcode]) + _modrm(draw, memory=True if lock else None)


def _alu_immediate(draw: random.Random, lock: bool = False) -> bytes:
    prefix, size = _prefix(draw, bits=3)
    opcode = draw.choice((0x80, 0x81, 0x83))
    body = _modrm(draw, draw.choice(_ALU[:7] if lock else _ALU), memory=True if lock else None)
    return prefix + bytes([opcode]) + body + _number(draw, size if opcode == 0x81 else 1)


def _accumulator(draw: random.Random) -> bytes:
    prefix, size = _prefix(draw)
    opcode = draw.choice([*(number << 3 | wide for number in _ALU for wide in (4, 5)), 0xA8, 0xA9])
    return prefix + bytes([opcode]) + _number(draw, size if opcode & 1 else 1)


def _opcodes(*choices: bytes, immediate: int = 0, memory: bool | None = None) -> Callable[[random.Random], bytes]:
    def drawn(draw: random.Random) -> bytes:
        prefix, size = _prefix(draw)
        more = _number(draw, size if immediate < 0 else immediate) if immediate else b""
        return prefix + draw.choice(choices) + _modrm(draw, memory=memory) + more

    return drawn


def _group(
    opcodes: tuple[bytes, ...], numbers: tuple[int, ...], immediate: int = 0
) -> Callable[[random.Random], bytes]:
    """Return what draws an instruction whose ModRM says which it is; an immediate of -1 has the operand's size."""

    def drawn(draw: random.Random) -> bytes:
        prefix, size = _prefix(draw, bits=3)
        opcode = draw.choice(opcodes)
        wide = size if immediate < 0 and opcode[-1] & 1 else abs(immediate)
        return prefix + opcode + _modrm(draw, draw.choice(numbers)) + _number(draw, wide)

    return drawn


def _locked(inner: Callable[[random.Random], bytes]) -> Callable[[random.Random], bytes]:
    return lambda draw: b"\xf0" + inner(draw)


def _plain(*choices: bytes) -> Callable[[random.Random], bytes]:
    return lambda draw: _prefix(draw)[0] + draw.choice(choices)


def _two(first: int, last: int) -> tuple[bytes, ...]:
    return tuple(bytes([0x0F, second]) for second in range(first, last + 1))


def _branch(draw: random.Random) -> bytes:
    if draw.randrange(2):
        return bytes([draw.choice((*range(0x70, 0x80), 0xEB))]) + draw.randbytes(1)
    return draw.choice((b"\xe8", b"\xe9", *_two(0x80, 0x8F))) + draw.randbytes(3) + b"\0"


def _string(draw: random.Random) -> bytes:
    return b"\xf3" + draw.choice((b"", b"\x48")) + draw.choice((b"\xaa", b"\xab", b"\xa4", b"\xa5"))


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "alu": _alu,
    "alu, immediate": _alu_immediate,
    "alu, accumulator": _accumulator,
    "test": _opcodes(b"\x84", b"\x85"),
    "test, immediate": _group((b"\xf6", b"\xf7"), (0,), -1),
    "not, neg": _group((b"\xf6", b"\xf7"), (2, 3)),
    "mul, div": _group((b"\xf7",), (4, 6)),
    "flags": lambda draw: draw.choice((b"\x9c", b"\xfa", b"\xfb")),
    "inc, dec": _group((b"\xfe", b"\xff"), (0, 1)),
    "shift": _group((b"\xc0", b"\xc1"), _SHIFTS, 1),
    "shift by one": _group((b"\xd0", b"\xd1"), _SHIFTS),
    "shift by cl": _group((b"\xd2", b"\xd3"), _SHIFTS),
    "imul": _opcodes(b"\x0f\xaf"),
    "imul, immediate": _opcodes(b"\x69", immediate=-1),
    "imul, byte": _opcodes(b"\x6b", immediate=1),
    "mov": _opcodes(b"\x88", b"\x89", b"\x8a", b"\x8b"),
    "mov, immediate": _group((b"\xc6", b"\xc7"), (0,), -1),
    "mov, 64 bits": lambda draw: bytes([0x48 | draw.randrange(2), 0xB8 | draw.randrange(8)]) + draw.randbytes(8),
    "mov, short": lambda draw: bytes([0xB8 | draw.randrange(8)]) + draw.randbytes(4),
    "extend": _opcodes(*_two(0xB6, 0xB7), *_two(0xBE, 0xBF)),
    "movsxd": _opcodes(b"\x63"),
    "accumulator": _plain(b"\x98", b"\x99"),
    "lea": _opcodes(b"\x8d", memory=True),
    "xchg": _opcodes(b"\x86", b"\x87"),
    "cmov": _opcodes(*_two(0x40, 0x4F)),
    "set": _opcodes(*_two(0x90, 0x9F)),
    "bit": _opcodes(b"\x0f\xa3", b"\x0f\xab", b"\x0f\xb3", b"\x0f\xbb"),
    "bit, immediate": _group((b"\x0f\xba",), (4, 5, 6, 7), 1),
    "scan": _opcodes(b"\x0f\xbc", b"\x0f\xbd"),
    "push, pop": lambda draw: bytes([0x40 | draw.randrange(2), 0x50 | draw.randrange(16)]),
    "push, immediate": lambda draw: draw.choice((b"\x6a" + draw.randbytes(1), b"\x68" + draw.randbytes(4))),
    "push, memory": _group((b"\xff",), (6,)),
    "leave, ret": lambda draw: draw.choice((b"\xc9", b"\xc3")),
    "branch": _branch,
    "branch, indirect": _group((b"\xff",), (2, 4)),
    "string": _string,
    "locked alu": _locked(lambda draw: _alu(draw, lock=True)),
    "locked alu, immediate": _locked(lambda draw: _alu_immediate(draw, lock=True)),
    "locked inc, dec": _locked(_group((b"\xfe", b"\xff"), (0, 1))),
    "locked xadd": _locked(_opcodes(b"\x0f\xc0", b"\x0f\xc1", memory=True)),
    "locked cmpxchg": _locked(_opcodes(b"\x0f\xb0", b"\x0f\xb1", memory=True)),
    "locked bit": _locked(_opcodes(b"\x0f\xab", b"\x0f\xb3", b"\x0f\xbb", memory=True)),
    "locked bit, immediate": _locked(_group((b"\x0f\xba",), (5, 6, 7), 1)),
}
"""What draws the bytes of an instruction, by the kind of it; some are none, or not supported."""
