"""`order_tree` compiled by numba, over arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzzvm.exhaustive.loop import compiled
from fuzzvm.runs.plans import order_tree

draw_into = compiled(order_tree.draw_into)
take_in = compiled(order_tree.take_in)


def numbers(values: list[int]) -> Any:
    """Return whole numbers as an array."""
    return np.array(values, np.int64)


def fractions(values: list[float]) -> Any:
    """Return fractions as an array."""
    return np.array(values, np.float64)


def plain(values: Any) -> list[int]:
    """Return an array as a list."""
    found: list[int] = values.tolist()
    return found
