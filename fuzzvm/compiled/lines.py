"""Where an address of an image stands in the source, with the functions that are inlined there."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Frame:
    """A function, and the line of it that is being executed. `inlined` says that it has no call of its own."""

    function: str
    file: str
    line: int
    inlined: bool

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


class Lines:
    """The lines of an image."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._files: list[str] = data["files"]
        self._rows: list[tuple[list[int], list[int], list[int], str]] = data["rows"]
        self._starts = [rows[0][0] for rows in self._rows]
        self._scopes: list[dict[str, Any]] = data["scopes"]
        pieces = sorted(
            (low, high, number) for number, scope in enumerate(self._scopes) for low, high in scope["ranges"]
        )
        self._pieces = pieces
        self._lows = [low for low, _, _ in pieces]
        self._frames: dict[int, tuple[Frame, ...]] = {}

    def line(self, address: int) -> tuple[str, int]:
        """Return file and line of an address, ("", 0) where they are not known."""
        place = bisect_right(self._starts, address) - 1
        if place >= 0:
            addresses, files, lines, _ = self._rows[place]
            row = bisect_right(addresses, address) - 1
            if files[row] >= 0:
                return self._files[files[row]], lines[row]
        return "", 0

    def frames(self, address: int) -> tuple[Frame, ...]:
        """Return the functions that an address belongs to, innermost first; the last is the one that has the code.

        Empty where the debug information says nothing of the address.
        """
        if address not in self._frames:
            self._frames[address] = tuple(self._find(address))
        return self._frames[address]

    def unit(self, address: int) -> str:
        """Return the source file whose compilation made the code at an address, "" where that is not known."""
        place = bisect_right(self._starts, address) - 1
        # the last row says where the code ends
        return self._rows[place][3] if place >= 0 and address < self._rows[place][0][-1] else ""

    def inlined(self, name: str) -> tuple[str, ...]:
        """Return the functions that one is inlined in, in order of their addresses."""
        return tuple(
            dict.fromkeys(scope["name"] for scope in self._scopes if any(call[0] == name for call in scope["inlined"]))
        )

    def _scope(self, address: int) -> dict[str, Any] | None:
        place = bisect_right(self._lows, address) - 1
        if place < 0 or address >= self._pieces[place][1]:
            return None
        return self._scopes[self._pieces[place][2]]

    def _find(self, address: int) -> list[Frame]:
        scope = self._scope(address)
        if scope is None:
            return []
        calls = scope["inlined"]
        inside = [number for number, call in enumerate(calls) if any(low <= address < high for low, high in call[4])]
        # an inner call comes after the one that it is in
        number = inside[-1] if inside else -1
        file, line = self.line(address)
        frames = []
        while number >= 0:
            name, call_file, call_line, parent, _ = calls[number]
            outer = calls[parent][0] if parent >= 0 else scope["name"]
            number = parent
            if name == outer:
                # a part of the function that the compiler had cut off, and put back
                continue
            frames.append(Frame(name, file, line, True))
            file, line = self._files[call_file], call_line
        return [*frames, Frame(scope["name"], file, line, False)]
