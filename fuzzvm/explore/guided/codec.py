"""Bytes as runs: the first byte picks the system, then pairs of bytes are bursts or ways.

A pair (a, b) with a below 128 is a burst of agent a, of b + 1 steps, or to the end where b is 255. With a from 128
on, b is the way that the next step with more than one takes. Every byte string means a run; a plan's bytes mean the
same plan again, as far as a byte holds its numbers.
"""

from __future__ import annotations

from fuzzvm.explore.plan import Plan

TO_THE_END = 1 << 20
"""Steps of a burst that lasts until its agent cannot go on."""

_TO_THE_END_BYTE = 255
_WAY = 128


def system_of(data: bytes, systems: int) -> int:
    """Return which of the systems the bytes are a run of."""
    return data[0] % systems if data else 0


def decode(data: bytes, systems: int, agents: int = 16) -> tuple[int, Plan]:
    """Return which of the systems, and the plan; agents are taken modulo `agents`."""
    system = system_of(data, systems)
    bursts: list[tuple[int, int]] = []
    values: list[int] = []
    for index in range(1, len(data) - 1, 2):
        who, what = data[index], data[index + 1]
        if who >= _WAY:
            values.append(what)
        else:
            bursts.append((who % agents, TO_THE_END if what == _TO_THE_END_BYTE else what + 1))
    return system, Plan(tuple(bursts), tuple(values))


def encode(system: int, plan: Plan) -> bytes:
    """Return bytes that `decode` takes for this plan of this system."""
    data = bytearray([system & 255])
    for agent, steps in plan.bursts:
        while steps > 0:
            burst = steps if steps >= TO_THE_END else min(steps, _TO_THE_END_BYTE)
            data += bytes([agent % _WAY, _TO_THE_END_BYTE if burst >= TO_THE_END else burst - 1])
            steps -= burst
    for value in plan.values:
        data += bytes([_WAY, value & 255])
    return bytes(data)
