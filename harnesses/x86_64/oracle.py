"""One instruction at a time in Unicorn, on the register file of `fuzzvm.compiled.x86_64.registers`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from unicorn import UC_ARCH_X86, UC_ERR_FETCH_UNMAPPED, UC_MODE_64
from unicorn import x86_const as names
from unicorn.unicorn import Uc, UcError

from fuzzvm.compiled.isa.slots import PC, SP
from fuzzvm.compiled.x86_64 import registers
from harnesses.window import BASE, SIZE, WINDOW, WINDOW_SIZE, RefusedError

_SLOTS: dict[int, int] = {
    **{
        slot: getattr(names, f"UC_X86_REG_{registers.NAMES[slot].upper()}")
        for slot in (*range(4), *range(5, 16), SP, PC, registers.GS_BASE)
    },
}
_BITS = registers.FLAG_BITS
_ALWAYS = 1 << 1
COMPARED = (*_SLOTS, *_BITS)
"""The slots that Unicorn has, too."""
_IDS = (*_SLOTS.values(), names.UC_X86_REG_EFLAGS)
_COUNT = len(_IDS)


class Oracle:
    """A CPU, and memory around `WINDOW`."""

    def __init__(self) -> None:
        untyped: Any = Uc
        self._unicorn = untyped(UC_ARCH_X86, UC_MODE_64)
        self._unicorn.mem_map(BASE, SIZE)
        # the library's call for many registers, without a conversion of each value
        self._values: Any = (ctypes.c_uint64 * _COUNT)()
        self._ids = (ctypes.c_int * _COUNT)(*_IDS)
        at = ctypes.addressof(self._values)
        self._pointers = (ctypes.c_void_p * _COUNT)(*(at + 8 * index for index in range(_COUNT)))

    def put_code(self, address: int, code: bytes) -> None:
        """Place an instruction."""
        self._unicorn.mem_write(address, code)
        self._unicorn.ctl_remove_cache(address, address + len(code))

    def put(self, state: Sequence[int], memory: bytes) -> None:
        """Set all registers, and the bytes of the window."""
        flags = _ALWAYS | sum(state[slot] << bit for slot, bit in _BITS.items())
        self._values[:] = [*(state[slot] for slot in _SLOTS), flags]
        self._unicorn._do_reg_write_batch(self._ids, self._pointers, _COUNT)
        self._unicorn.mem_write(WINDOW, memory)

    def step(self, address: int, size: int, *, repeats: bool) -> tuple[list[int], bytes]:
        """Execute the instruction at an address, to its end if it `repeats`; return `COMPARED` and the window.

        Raises RefusedError if it does not complete.
        """
        try:
            self._unicorn.emu_start(address, address + size if repeats else BASE + SIZE, count=0 if repeats else 1)
        except UcError as error:
            # a branch has been taken, to where nothing is mapped
            if error.errno != UC_ERR_FETCH_UNMAPPED:
                raise RefusedError(str(error)) from None
        self._unicorn._do_reg_read_batch(self._ids, self._pointers, _COUNT)
        *values, flags = self._values
        values += [flags >> bit & 1 for bit in _BITS.values()]
        return values, bytes(self._unicorn.mem_read(WINDOW, WINDOW_SIZE))
