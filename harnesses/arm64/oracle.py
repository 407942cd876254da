"""One instruction at a time in Unicorn, on the register file of `fuzzvm.compiled.arm64.registers`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from unicorn import UC_ARCH_ARM64, UC_ERR_FETCH_UNMAPPED, UC_MODE_ARM
from unicorn import arm64_const as names
from unicorn.unicorn import Uc, UcError

from fuzzvm.compiled.arm64 import registers
from harnesses.window import BASE, SIZE, WINDOW, WINDOW_SIZE, RefusedError

_SLOTS: dict[int, int] = {
    **{number: getattr(names, f"UC_ARM64_REG_X{number}") for number in range(31)},
    registers.SP: names.UC_ARM64_REG_SP,
    registers.FLAGS: names.UC_ARM64_REG_PSTATE,
    registers.PC: names.UC_ARM64_REG_PC,
    registers.SP_EL0: names.UC_ARM64_REG_SP_EL0,
    registers.TPIDR_EL0: names.UC_ARM64_REG_TPIDR_EL0,
    registers.TPIDR_EL1: names.UC_ARM64_REG_TPIDR_EL1,
    registers.TPIDRRO_EL0: names.UC_ARM64_REG_TPIDRRO_EL0,
}
COMPARED = (*_SLOTS, registers.DAIF)
"""The slots that Unicorn has, too. TPIDR_EL2 is not among them: it runs at EL1."""
_EL1 = 5
"""PSTATE.M: EL1 with its own stack pointer."""
_COUNT = len(_SLOTS)
_PSTATE_AT = tuple(_SLOTS).index(registers.FLAGS)
_DAIF_BITS = 0xF << 6


class Oracle:
    """A CPU with all of Unicorn's extensions, and memory around `WINDOW`."""

    def __init__(self) -> None:
        untyped: Any = Uc
        self._unicorn = untyped(UC_ARCH_ARM64, UC_MODE_ARM)
        self._unicorn.ctl_set_cpu_model(names.UC_CPU_ARM64_MAX)
        self._unicorn.mem_map(BASE, SIZE)
        # the library's call for many registers, without a conversion of each value: 50 times faster
        self._values: Any = (ctypes.c_uint64 * _COUNT)()
        self._ids = (ctypes.c_int * _COUNT)(*_SLOTS.values())
        at = ctypes.addressof(self._values)
        self._pointers = (ctypes.c_void_p * _COUNT)(*(at + 8 * index for index in range(_COUNT)))

    def put_code(self, address: int, word: int) -> None:
        """Place an instruction."""
        self._unicorn.mem_write(address, word.to_bytes(4, "little"))
        self._unicorn.ctl_remove_cache(address, address + 4)

    def put(self, state: Sequence[int], memory: bytes) -> None:
        """Set all registers, and the bytes of the window."""
        values = [state[slot] for slot in _SLOTS]
        values[_PSTATE_AT] = state[registers.FLAGS] << 28 | state[registers.DAIF] | _EL1
        self._values[:] = values
        self._unicorn._do_reg_write_batch(self._ids, self._pointers, _COUNT)
        self._unicorn.mem_write(WINDOW, memory)

    def step(self, address: int, count: int = 1) -> tuple[list[int], bytes]:
        """Execute so many instructions from an address; return the values of `COMPARED` after them, and the window.

        Raises RefusedError if they do not complete.
        """
        try:
            self._unicorn.emu_start(address, BASE + SIZE, count=count)
        except UcError as error:
            # a branch has been taken, to where nothing is mapped
            if error.errno != UC_ERR_FETCH_UNMAPPED:
                raise RefusedError(str(error)) from None
        self._unicorn._do_reg_read_batch(self._ids, self._pointers, _COUNT)
        values = list(self._values)
        pstate = values[_PSTATE_AT]
        values[_PSTATE_AT] = pstate >> 28
        values.append(pstate & _DAIF_BITS)
        return values, bytes(self._unicorn.mem_read(WINDOW, WINDOW_SIZE))
