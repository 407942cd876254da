"""Bytes as plans: the first byte picks the system, then each pair of bytes adds to the plan.

A pair (a, b) is, by a:

- below 128, a burst of agent a, of b + 1 accesses, or to the end where b is 255;
- from 128 on, b is the way that the next step with more than one takes;
- from 192 on, CPU b is the next to access place a - 192;
- from 224 on, priorities are drawn from b next.

Every byte string means a run; a plan's bytes mean the same plan again, as far as a byte holds its numbers.
"""

from __future__ import annotations

from fuzzvm.runs.plans.plan import Plan

TO_THE_END = 1 << 20
"""Accesses of a burst that lasts until its agent cannot go on."""

_TO_THE_END_BYTE = 255
_WAY, _ORDER, _DRAW = 128, 192, 224
PLACES = _DRAW - _ORDER
"""Places whose orders the bytes hold: those that became known first."""


def system_of(data: bytes, systems: int) -> int:
    """Return which of the systems the bytes are a run of."""
    return data[0] % systems if data else 0


def decode(data: bytes, systems: int, agents: int = 16) -> tuple[int, Plan]:
    """Return which of the systems, and the plan; agents of bursts are taken modulo `agents`."""
    bursts: list[tuple[int, int]] = []
    values: list[int] = []
    orders: dict[int, list[int]] = {}
    draws = bytearray()
    whats, given = data[1::2], data[2::2]
    whats = whats[: len(given)]
    at = 0
    while at < len(whats):
        # most often many in a row are of the same kind
        what = whats[at]
        end = len(whats) - len(whats[at:].lstrip(whats[at : at + 1]))
        if what >= _DRAW:
            draws += given[at:end]
        elif what >= _ORDER:
            orders.setdefault(what - _ORDER, []).extend(given[at:end])
        elif what >= _WAY:
            values += given[at:end]
        else:
            bursts += [(what % agents, TO_THE_END if byte == _TO_THE_END_BYTE else byte + 1) for byte in given[at:end]]
        at = end
    ranked = tuple((place, tuple(order)) for place, order in orders.items())
    return system_of(data, systems), Plan(tuple(bursts), tuple(values), ranked, bytes(draws))


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
    # before the orders: where bytes are cut off at the end, it is what matters least
    data += _pairs(_DRAW, plan.draws)
    for place, order in plan.orders:
        if place < PLACES:
            data += _pairs(_ORDER + place, bytes([cpu & 255 for cpu in order]))
    return bytes(data)


def _pairs(what: int, given: bytes) -> bytearray:
    """Return bytes, each behind one that says what it is."""
    pairs = bytearray([what]) * (2 * len(given))
    pairs[1::2] = given
    return pairs
