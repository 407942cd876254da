"""The kernel's symbols, from System.map: which address has a name, and which name an address has."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_text
from fuzzvm.realkernel.errors import RealKernelError

MAX_BYTES = 256 << 20
"""Of a System.map, which is read as a whole."""
_DISTANCE = 1 << 20
"""Bytes past the last symbol before it at which an address is no longer said to belong to it."""


class Symbols:
    """The symbols of a kernel that runs where it was linked to run.

    A name that several static functions have stands for the first one.
    """

    def __init__(self, text: str) -> None:
        self._addresses: dict[str, int] = {}
        named: list[tuple[int, str]] = []
        for line in text.splitlines():
            address, _, name = line.split(maxsplit=2)
            self._addresses.setdefault(name, int(address, 16))
            named.append((int(address, 16), name))
        # a stable sort keeps the order of names that share an address
        named.sort(key=lambda pair: pair[0])
        self._starts = [address for address, _ in named]
        self._names = [name for _, name in named]

    @classmethod
    def read(cls, path: Path) -> Symbols:
        """Read System.map. Raises RealKernelError where it cannot be read or is something else."""
        try:
            return cls(read_text(path, MAX_BYTES))
        except (FileError, ValueError) as error:
            raise RealKernelError(f"{path}: no System.map: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._addresses

    def address(self, *names: str) -> int:
        """Return the address of the first of these names that there is. Raises RealKernelError where there is none."""
        for name in names:
            if name in self._addresses:
                return self._addresses[name]
        raise RealKernelError(f"the kernel has no symbol {' or '.join(names)}")

    def name(self, address: int) -> tuple[str, int] | None:
        """Return the symbol at or before an address and the distance to it, None where nothing is near."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address - self._starts[at] > _DISTANCE:
            return None
        first = self._starts.index(self._starts[at], max(0, at - 16))
        return self._names[first], address - self._starts[at]

    def function(self, address: int) -> str:
        """Return the name of the function that an address lies in, the address itself where it has none."""
        found = self.name(address)
        return f"{address:#x}" if found is None else found[0].partition(".")[0]

    def described(self, address: int) -> str:
        """Return an address as the kernel's backtraces do: name+0xoffset."""
        found = self.name(address)
        return f"{address:#x}" if found is None else f"{found[0]}+{found[1]:#x}"
