"""Mutations of schedules as schedules: what a change of the bytes could hardly hit.

Each takes the bursts of a plan and returns others; all keep a plan a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

from fuzzvm.explore.guided.codec import TO_THE_END, decode, encode
from fuzzvm.explore.plan import Plan

Bursts: TypeAlias = list[tuple[int, int]]

MAX_AGENT = 8
MAX_BURST = 64


def swap_neighbours(bursts: Bursts, random: Random) -> Bursts:
    """Let two neighbouring bursts change places."""
    if len(bursts) < 2:
        return bursts
    index = random.randrange(len(bursts) - 1)
    return [*bursts[:index], bursts[index + 1], bursts[index], *bursts[index + 2 :]]


def move_switch(bursts: Bursts, random: Random) -> Bursts:
    """Move a context switch: give a few steps of one burst to the next one."""
    if len(bursts) < 2:
        return bursts
    index = random.randrange(len(bursts) - 1)
    (agent, steps), (following, its_steps) = bursts[index], bursts[index + 1]
    if steps >= TO_THE_END or its_steps >= TO_THE_END:
        return stretch(bursts, random)
    moved = random.randint(1, max(1, min(8, steps - 1)))
    return [*bursts[:index], (agent, max(1, steps - moved)), (following, its_steps + moved), *bursts[index + 2 :]]


def stretch(bursts: Bursts, random: Random) -> Bursts:
    """Make a burst a little longer or shorter, or last to the end, or give one that does an end."""
    if not bursts:
        return bursts
    index = random.randrange(len(bursts))
    agent, steps = bursts[index]
    if steps >= TO_THE_END:
        steps = random.randint(1, MAX_BURST)
    elif random.random() < 0.25:
        steps = TO_THE_END
    else:
        steps = max(1, steps + random.choice([-8, -3, -2, -1, 1, 2, 3, 8]))
    return [*bursts[:index], (agent, steps), *bursts[index + 1 :]]


def insert(bursts: Bursts, random: Random) -> Bursts:
    """Insert a burst of any agent, which makes two context switches, at the end one."""
    index = random.randint(0, len(bursts))
    steps = TO_THE_END if random.random() < 0.4 else random.randint(1, MAX_BURST)
    return [*bursts[:index], (random.randrange(MAX_AGENT), steps), *bursts[index:]]


def split(bursts: Bursts, random: Random) -> Bursts:
    """Interrupt a burst: cut it in two and let another agent run in between."""
    if not bursts:
        return insert(bursts, random)
    index = random.randrange(len(bursts))
    agent, steps = bursts[index]
    cut = random.randint(1, max(1, min(steps, MAX_BURST) - 1))
    between = TO_THE_END if random.random() < 0.5 else random.randint(1, MAX_BURST)
    rest = steps if steps >= TO_THE_END else max(1, steps - cut)
    middle = (random.randrange(MAX_AGENT), between)
    return [*bursts[:index], (agent, cut), middle, (agent, rest), *bursts[index + 1 :]]


def remove(bursts: Bursts, random: Random) -> Bursts:
    """Leave out a burst."""
    if not bursts:
        return bursts
    index = random.randrange(len(bursts))
    return [*bursts[:index], *bursts[index + 1 :]]


def change_agent(bursts: Bursts, random: Random) -> Bursts:
    """Give a burst to any agent."""
    if not bursts:
        return bursts
    index = random.randrange(len(bursts))
    return [*bursts[:index], (random.randrange(MAX_AGENT), bursts[index][1]), *bursts[index + 1 :]]


MUTATIONS: tuple[Callable[[Bursts, Random], Bursts], ...] = (
    swap_neighbours,
    move_switch,
    move_switch,
    stretch,
    stretch,
    insert,
    split,
    remove,
    change_agent,
)
"""What is drawn from, those twice that change least."""


def mutate(data: bytes, max_size: int, random: Random) -> bytes:
    """Return other bytes of at most `max_size` whose run is a few changes away; now and then of another system."""
    system, plan = decode(data, 256)
    if random.random() < 0.05:
        system = random.randrange(256)
    bursts, values = list(plan.bursts), list(plan.values)
    for _ in range(random.choice([1, 1, 2, 3])):
        bursts = random.choice(MUTATIONS)(bursts, random)
    if values and random.random() < 0.3:
        values[random.randrange(len(values))] = random.randrange(8)
    elif random.random() < 0.1:
        values.append(random.randrange(8))
    return encode(system, Plan(tuple(bursts), tuple(values)))[:max_size]


def splice(first: bytes, second: bytes, max_size: int, random: Random) -> bytes:
    """Return the beginning of one run followed by the end of another, of the first one's system."""
    system, one = decode(first, 256)
    _, other = decode(second, 256)
    left = one.bursts[: random.randint(0, len(one.bursts))]
    right = other.bursts[random.randint(0, len(other.bursts)) :]
    return encode(system, Plan((*left, *right), one.values or other.values))[:max_size]
