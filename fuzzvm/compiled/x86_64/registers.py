"""The register file of x86_64: the slots of general registers, of flags, and of what else code reads."""

from __future__ import annotations

from fuzzvm.compiled.isa.slots import PC, SP

RAX, RCX, RDX, RBX, RBP, RSI, RDI = 0, 1, 2, 3, 5, 6, 7
CF, PF, AF, ZF, SF, OF = FLAGS = tuple(range(16, 22))
"""The status flags, each 0, 1 or `UNDEFINED`."""
UNDEFINED = 2
"""What a flag is after an instruction that leaves it undefined (Intel SDM vol. 1 appendix A)."""
GS_BASE = 22
TEMP = 23
"""What an instruction that accesses memory twice keeps in between."""
IF = 24
"""The interrupt flag, 0 or 1."""
COUNT = 34

FLAG_BITS = dict(zip((*FLAGS, IF), (0, 2, 4, 6, 7, 11, 9), strict=True))
"""The bit of each flag in RFLAGS (Intel SDM vol. 1 3.4.3)."""

_WIDE = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_SLOT = {name: SP if name == "rsp" else number for number, name in enumerate(_WIDE)}

_NAMES = {
    **{slot: name for name, slot in _SLOT.items()},
    **dict(zip(FLAGS, ("cf", "pf", "af", "zf", "sf", "of"), strict=True)),
    GS_BASE: "gs_base",
    TEMP: "temp",
    IF: "if",
    PC: "rip",
}
NAMES = tuple(_NAMES.get(slot, "") for slot in range(COUNT))
"""The name of each slot, "" for one that there is not."""


def _parts() -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for name, slot in _SLOT.items():
        found[name] = slot, 8, 0
        if name[1:].isdecimal():
            found |= {f"{name}{suffix}": (slot, size, 0) for suffix, size in (("d", 4), ("w", 2), ("b", 1))}
            continue
        short = name[1:]
        found |= {f"e{short}": (slot, 4, 0), short: (slot, 2, 0)}
        if short.endswith("x"):
            found |= {f"{short[0]}l": (slot, 1, 0), f"{short[0]}h": (slot, 1, 8)}
        else:
            found[f"{short}l"] = slot, 1, 0
    return found


PARTS = _parts()
"""Slot, size in bytes and first bit of each register, by name."""
