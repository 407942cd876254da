"""Page-table values as integers: what a page-table entry says of a page, and what arithmetic may make of it.

A value has the bits of a stage 1 page descriptor (Arm ARM D8.3.1) that herd7 has names for: valid (0), AP[1] (6), AP[2]
(7, set where `db` is 0), AF (10) and DBM (51). The number of the page stands in the bits of the output address, and a
mark above bit 52, which no descriptor has, tells a page-table value from any other number.
"""

from __future__ import annotations

from fuzzvm.litmus.program import Instruction, LitmusError

VALID = 1
USER = 1 << 6
READ_ONLY = 1 << 7
ACCESSED = 1 << 10
MANAGED = 1 << 51
BITS = VALID | USER | READ_ONLY | ACCESSED | MANAGED
_MARK_SHIFT = 52
_MARK = 0x5E7
_PAGE_SHIFT = 12
_PAGES = (1 << 24) - 1
_FIELDS = {"af": ACCESSED, "db": READ_ONLY, "dbm": MANAGED, "valid": VALID}
"""In the order in which herd7 prints them."""
_DEFAULT = _MARK << _MARK_SHIFT | VALID | USER | ACCESSED
"""What herd7 takes a field to be that is not given: valid:1, af:1, db:1, dbm:0."""


def is_entry(value: int) -> bool:
    """Return whether a number is a page-table value."""
    return value >> _MARK_SHIFT == _MARK


def encode(page: int, fields: tuple[tuple[str, int], ...]) -> int:
    """Return the page-table value for a page's number with some fields; the others have their defaults."""
    value = _DEFAULT | page << _PAGE_SHIFT
    for name, given in fields:
        set_bit = given == (name != "db")
        value = value | _FIELDS[name] if set_bit else value & ~_FIELDS[name]
    return value


def page_of(value: int) -> int:
    """Return the number of the page that a page-table value leads to, 0 for none."""
    return value >> _PAGE_SHIFT & _PAGES


def with_page(value: int, page: int) -> int:
    """Return a page-table value that has no page, with one."""
    return value | page << _PAGE_SHIFT


def show(value: int, page: str) -> str:
    """Return a page-table value as herd7 prints it: the page, and the fields that do not have their defaults."""
    changed = value ^ _DEFAULT
    fields = []
    for name, bit in _FIELDS.items():
        if changed & bit:
            fields.append(f", {name}:{int(bool(value & bit) is (name != 'db'))}")
    return f"(oa:PA({page}){''.join(fields)})"


def compute(name: str, left: int, right: int, instruction: Instruction) -> int:
    """Return what an operation makes of two numbers of which at least one is a page-table value.

    What is possible is what herd7 makes something of: a bit set by ORR, cleared by BIC or tested by AND, and the
    difference of two equal values. Raises LitmusError for anything else.
    """
    if name in ("EOR", "SUB") and left == right:
        return 0
    if name == "ORR" and not is_entry(left):
        left, right = right, left
    if name == "AND" and is_entry(left) is not is_entry(right):
        return left & right & BITS
    if name in ("ORR", "BIC") and is_entry(left) and not right & ~BITS:
        return left | right if name == "ORR" else left & ~right
    raise LitmusError(f"{instruction} makes no page-table value of one", instruction.line)
