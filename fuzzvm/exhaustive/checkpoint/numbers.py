"""Integers as bytes and back: states of a space, and rows of small numbers."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from fuzzvm.exhaustive.checkpoint.errors import DamagedError

AT_ONCE = 100_000
"""Integers of a chunk: what stands beside them in memory while they are written."""


def wide(numbers: Iterable[int], size: int) -> Iterator[bytes]:
    """Yield integers from 0 in `size` bytes each, some at a time."""
    left = iter(numbers)
    while chunk := b"".join([number.to_bytes(size, "little") for number in islice(left, AT_ONCE)]):
        yield chunk


def of_wide(chunks: Iterable[bytes], size: int) -> Iterator[int]:
    """Yield what `wide` was given. Raises DamagedError."""
    read = int.from_bytes
    for data in chunks:
        if len(data) % size:
            raise DamagedError("states are cut off")
        yield from [read(data[at : at + size], "little") for at in range(0, len(data), size)]


def small(numbers: Iterable[int]) -> bytes:
    """Return integers from 0 that are less than 2**32 in 4 bytes each."""
    found = array("I", numbers)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tobytes()


def of_small(data: bytes) -> array[int]:
    """Return what `small` was given. Raises DamagedError."""
    found = array("I")
    if len(data) % found.itemsize:
        raise DamagedError("numbers are cut off")
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def text(data: Any) -> bytes:
    """Return JSON data as bytes."""
    return json.dumps(data, separators=(",", ":")).encode("utf-8", "surrogatepass")


def of_text(data: bytes) -> Any:
    """Return what `text` was given. Raises DamagedError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError("a part of it is no JSON") from error


def rows(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Yield the elements of lists that were written one after another. Raises DamagedError."""
    for chunk in chunks:
        found = of_text(chunk)
        if type(found) is not list:
            raise DamagedError("a part of it is no list")
        yield from found


def is_count(value: object) -> bool:
    """Return whether a value is an integer from 0."""
    return type(value) is int and value >= 0
