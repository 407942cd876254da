"""The inner loop of a search, compiled by numba: states as 64-bit integers, all that it looks at in arrays.

Nothing here knows what a state means. `packed` gives it arrays, and takes over whatever they do not hold.

A set of states is an array of a power of two of places, in which a state stands as itself plus one, and 0 is a free
place. A table is one of pairs, a key plus one and a value. What takes a state to its place is Fibonacci hashing (Knuth,
The Art of Computer Programming, volume 3, section 6.4), and the next free place is taken where that one is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Words = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

EMPTY: Final = 0
"""What a search comes back with: nothing is left to do that the tables know,"""
LOOK: Final = 1
"""there are as many states as it was to come back at,"""
FULL: Final = 2
"""or an array has no room."""

NO_STEP: Final = 0
"""What a table holds beside differences between states: the CPU cannot step,"""
STAYS: Final = -(1 << 63)
"""its step leads back to the same state,"""
FAILS: Final = -(1 << 63) + 1
"""or goes wrong;"""
UNKNOWN: Final = -(1 << 63) + 2
"""and what the step does has been asked for, and is not known yet."""

TOP, STATES, TRANSITIONS, ASKED, POSTPONED, ENDS = range(6)
"""Places in `counts`: the height of the stack, what was counted, and how much is in each of the arrays."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def compiled(function: Function) -> Function:
    """Return a function compiled; kept on disk for the next process where there is a folder for that."""
    kept: Any
    try:
        kept = njit(cache=True)(function)
    except RuntimeError:
        # numba found no folder that it may write to
        kept = njit(function)
    return cast(Function, kept)


@compiled
def place(word: Any, size: int) -> Any:
    mixed = np.uint64(word) * _GOLDEN
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(size - 1))


@compiled
def add(states: Words, state: int) -> bool:
    size = states.size
    at = place(state, size)
    while states[at] != 0:
        if states[at] == state + 1:
            return False
        at = (at + 1) & (size - 1)
    states[at] = state + 1
    return True


@compiled
def add_all(states: Words, more: Words) -> int:
    """Put states into a set that has room for them; return how many of them were not there."""
    added = 0
    for state in more:
        added += add(states, state)
    return added


@compiled
def set_all(table: Words, keys: Words, values: Words) -> None:
    """Put values into a table that has room for them."""
    size = table.shape[0]
    for index in range(keys.size):
        at = place(keys[index], size)
        while table[at, 0] != 0 and table[at, 0] != keys[index] + 1:
            at = (at + 1) & (size - 1)
        table[at, 0] = keys[index] + 1
        table[at, 1] = values[index]


@compiled
def visit(
    states: Words,
    most: int,
    table: Words,
    masks: Words,
    locals_: Words,
    stack: Words,
    counts: Words,
    asked: Words,
    postponed: Words,
    ends: Words,
) -> int:
    """Visit states from the stack until there are `most`, or nothing is left, or there is no room; return which.

    `masks` has for each CPU what its steps depend on, and `locals_` the part of it that is its local state. A state
    with a step that is not in the table goes to `postponed`, and the step's key, once, to `asked`; one without any
    steps goes to `ends`. The table has room for as many keys as `asked` holds.
    """
    cpus = masks.size
    entries = np.zeros(cpus, np.int64)
    size = table.shape[0]
    # room for what the last state may add to each
    high_stack, high_asked, high_postponed = stack.size - cpus, asked.size - cpus, postponed.size
    top, count, transitions = counts[TOP], counts[STATES], counts[TRANSITIONS]
    why = EMPTY
    while top > 0:
        if count >= most:
            why = LOOK
            break
        if (
            top > high_stack
            or counts[ASKED] > high_asked
            or counts[POSTPONED] == high_postponed
            or counts[ENDS] == ends.size
        ):
            why = FULL
            break
        top -= 1
        state = stack[top]
        known = True
        for cpu in range(cpus):
            key = state & masks[cpu]
            entries[cpu] = NO_STEP
            if key & locals_[cpu]:
                at = place(key, size)
                while table[at, 0] != 0 and table[at, 0] != key + 1:
                    at = (at + 1) & (size - 1)
                if table[at, 0] == 0:
                    table[at, 0] = key + 1
                    table[at, 1] = UNKNOWN
                    asked[counts[ASKED]] = key
                    counts[ASKED] += 1
                entries[cpu] = table[at, 1]
                known = known and entries[cpu] != UNKNOWN
        if not known:
            postponed[counts[POSTPONED]] = state
            counts[POSTPONED] += 1
            continue
        before = transitions
        for cpu in range(cpus):
            entry = entries[cpu]
            if entry == NO_STEP:
                continue
            transitions += 1
            if entry != STAYS and entry != FAILS and add(states, state + entry):
                stack[top] = state + entry
                top += 1
                count += 1
        if transitions == before:
            ends[counts[ENDS]] = state
            counts[ENDS] += 1
    counts[TOP], counts[STATES], counts[TRANSITIONS] = top, count, transitions
    return why
