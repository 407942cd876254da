"""The bytes that are one location of the machine's memory: those of the widest access to them.

An access of 1 to 8 bytes is one location. A load of some bytes of a location reads all of it, which is what the
architecture allows as well: both read from one store (Arm ARM B2.2.1). A store to some bytes of a location that is
wider, as where a spinlock is released, keeps the others in one atomic step. An access that spans two locations, neither
of which it covers, is refused by name.

How wide a location is comes out as the code runs. Where it turns out to be wider than was known, everything begins
again with that.
"""

from __future__ import annotations

from typing import NamedTuple

from fuzzvm.compiled.errors import ImageError
from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.ops import Address
from fuzzvm.machine.program import Constant

WIDEST = 8


class MixedSizeError(ImageError):
    """Two accesses overlap in a way that one location cannot stand for."""


class Unit(NamedTuple):
    """A location: its address, and its size in bytes."""

    address: Address
    size: int


class Units(Constant):
    """The locations of one scenario, as far as they are known."""

    def __init__(self) -> None:
        self._sizes: dict[Address, int] = {}
        self._met: dict[tuple[Address, int], Unit] = {}

    def find(self, address: Address, size: int) -> Unit:
        """Return the location of an access of so many bytes.

        Raises MixedSizeError, and OutdatedProgramError where it makes a location wider than was known.
        """
        key = (address, size)
        found = self._met.get(key)
        if found is None:
            found = self._met[key] = self._find(Unit(address, size))
        return found

    def known(self, address: Address) -> Unit:
        """Return the location at an address that has been accessed; a byte where none has."""
        return Unit(address, self._sizes.get(address, 1))

    def _find(self, access: Unit) -> Unit:
        end = access.address + access.size
        over = [
            Unit(at, self._sizes[at])
            for at in range(access.address - WIDEST + 1, end)
            if at in self._sizes and at + self._sizes[at] > access.address
        ]
        wider = [unit for unit in over if unit.address <= access.address and end <= unit.address + unit.size]
        if wider:
            return wider[0]
        for unit in over:
            if not (access.address <= unit.address and unit.address + unit.size <= end):
                raise MixedSizeError(_both(access, unit))
            del self._sizes[unit.address]
        self._sizes[access.address] = access.size
        if over:
            self._met.clear()
            raise OutdatedProgramError
        return access


def _both(access: Unit, other: Unit) -> str:
    offset = other.address - access.address
    return (
        f"{access.size} bytes are accessed that overlap an access of {other.size} bytes, {offset:+} bytes from there, "
        "which is not supported"
    )
