"""What comparisons with Unicorn share: the memory that is compared, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

BASE = 0x1000_0000
SIZE = 0x80_0000
"""Mapped memory. An instruction at `CODE` can name every address in `WINDOW` relative to itself."""
WINDOW = BASE + SIZE // 2
WINDOW_SIZE = 256
"""The bytes that are compared. What lies around them is mapped, so that a wrong address shows as a wrong value."""


class RefusedError(Exception):
    """Unicorn did not execute the instruction: it is undefined, takes an exception, or touches what is not mapped."""


class MismatchError(Exception):
    """fuzzvm and Unicorn do not agree on an instruction; the text says on what."""


class Window:
    """The window's bytes, as memory that answers accesses and as private memory."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def read(self, address: int, size: int) -> int:
        """Return a number from the window. Raises MismatchError outside of it."""
        at = self._at(address, size)
        return int.from_bytes(self.data[at : at + size], "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Write a number into the window. Raises MismatchError outside of it, or if it is too large."""
        at = self._at(address, size)
        if not 0 <= value < 1 << 8 * size:
            raise MismatchError(f"{value:#x} is stored in {size} bytes")
        self.data[at : at + size] = value.to_bytes(size, "little")

    def _at(self, address: int, size: int) -> int:
        if not WINDOW <= address <= WINDOW + WINDOW_SIZE - size:
            raise MismatchError(f"access at {address:#x}")
        return address - WINDOW


class AllPrivate:
    """The window as private memory."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def load(self, address: int, size: int) -> int | None:
        return self._window.read(address, size)

    def store(self, address: int, size: int, value: int) -> bool:
        self._window.write(address, size, value)
        return True


class AllPrivateTracked:
    """The same, with dependencies, which are not looked at here."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def load(self, address: int, size: int) -> tuple[int, int, int] | None:
        return self._window.read(address, size), 0, 0

    def store(self, address: int, size: int, value: int, view: int, pick: int) -> bool:
        self._window.write(address, size, value)
        return True


class NonePrivate:
    """No memory is private."""

    def load(self, address: int, size: int) -> None:
        return None

    def store(self, address: int, size: int, *rest: int) -> bool:
        return False


@dataclass
class Report:
    """What was compared: trials of each form, words that were refused, and what did not agree."""

    forms: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    only_here: Counter[str] = field(default_factory=Counter)
    """Instructions that cannot be compared: Unicorn has no such, or no state places their access in the window."""
    mismatches: dict[str, str] = field(default_factory=dict)
