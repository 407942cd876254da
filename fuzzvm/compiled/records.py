"""What the index of an image holds: plain data, written when the image is built and read when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

FUNCTIONS = ".boundary.functions"
OTHERS = ".boundary.others"
"""The sections of names that no object has: an address each, and no content."""

VOID = -1
"""The index of no type: what a function without a result returns."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section that has an address. `offset` is where its bytes stand in the file, -1 where it has none (all zero)."""

    name: str
    address: int
    size: int
    offset: int
    writable: bool
    executable: bool

    @property
    def end(self) -> int:
        """Return the address after it."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name of an address. Several may have one name (static functions), and several one address.

    `kind` is "function", "object", or "" where neither the symbol table nor the debug information says. `unit` is the
    source file that it stands in, as far as that is known. `defined` is False for a name that the image refers to and
    does not hold: it has an address of its own, at which nothing stands. `weak` is a definition that another object of
    the kernel may replace.
    """

    name: str
    address: int
    size: int
    kind: str
    unit: str = ""
    local: bool = False
    defined: bool = True
    weak: bool = False


@dataclass(frozen=True, slots=True)
class JumpSite:
    """A site of a static key. The instruction at `code` branches to `target` where the key is on, if `branch` is false.

    If `branch` is true it branches where the key is off; in the other case it is a NOP (jump_label_type()).
    """

    code: int
    target: int
    key: int
    branch: bool


@dataclass(frozen=True, slots=True)
class Bug:
    """An entry of the table of bugs: BUG() or WARN() at an address, and where the source has it."""

    address: int
    file: str
    line: int
    warning: bool


@dataclass(frozen=True, slots=True)
class ExceptionEntry:
    """An entry of the exception table: an instruction that may fault, and where it goes on then."""

    address: int
    fixup: int


@dataclass(frozen=True, slots=True)
class Reference:
    """An address that an instruction or a word of data holds. `place` is where it is held."""

    place: int
    target: int
