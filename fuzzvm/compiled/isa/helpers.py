"""Functions that templates of `expressions` may call, for what Python's operators do not express in a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fuzzvm.compiled.errors import ImageError


class UndefinedFlagError(ImageError):
    """Code reads what the architecture leaves undefined; `name` is the flag or result."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is read, which the instruction that wrote it leaves undefined")


def undefined_flag(name: str) -> int:
    """Stand for a value that is undefined. Raises UndefinedFlagError."""
    raise UndefinedFlagError(name)


def signed(value: int, bits: int) -> int:
    """Return the number that the low `bits` bits stand for in two's complement."""
    sign = 1 << (bits - 1)
    return ((value & ((sign << 1) - 1)) ^ sign) - sign


def divide_signed(dividend: int, divisor: int, bits: int) -> int:
    """Return SDIV's quotient, rounded towards zero; 0 for a division by 0 (Arm ARM C6.2, SDIV)."""
    if not divisor:
        return 0
    a, b = signed(dividend, bits), signed(divisor, bits)
    quotient = abs(a) // abs(b)
    return (quotient if (a < 0) == (b < 0) else -quotient) & ((1 << bits) - 1)


def reverse_bits(value: int, bits: int) -> int:
    """Return RBIT's result."""
    return int(f"{value:0{bits}b}"[::-1], 2)


def reverse_bytes(value: int, bits: int, group: int) -> int:
    """Return the value with the bytes of each group of `group` bytes reversed (REV, REV16, REV32)."""
    data = value.to_bytes(bits // 8, "little")
    groups = [data[at : at + group][::-1] for at in range(0, len(data), group)]
    return int.from_bytes(b"".join(groups), "little")


def quotient(dividend: int, divisor: int, bits: int) -> int:
    """Return DIV's quotient. Raises ImageError where the instruction traps (Intel SDM vol. 2, DIV)."""
    if not divisor or dividend // divisor >> bits:
        raise ImageError(f"a division of {dividend:#x} by {divisor:#x}, which traps")
    return dividend // divisor


HELPERS: Mapping[str, Callable[..., int]] = {
    "divide_signed": divide_signed,
    "quotient": quotient,
    "reverse_bits": reverse_bits,
    "reverse_bytes": reverse_bytes,
    "signed": signed,
    "undefined_flag": undefined_flag,
}
