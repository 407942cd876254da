"""Mutations of plans as plans: what a change of the bytes could hardly hit.

Each takes a plan and returns another one that keeps what it does not name: a change point moves, a prefix is taken over
and followed by something else, or two accesses of different CPUs to one place change their order, which is what changes
who reads from whom (Wolff, Shi, Duck, Mathur, Roychoudhury: "Greybox Fuzzing for Concurrency Testing", ASPLOS 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from fuzzvm.runs.guided.codec import TO_THE_END, decode, encode
from fuzzvm.runs.plans.orders import DRAWS, Orders
from fuzzvm.runs.plans.plan import Plan

FRESH = 0.85
"""How often a plan is drawn anew."""
MAX_AGENT = 8
MAX_BURST = 64
_NOTHING = Plan(())

Mutation = Callable[[Plan, Orders, Random], Plan]


def swap_accesses(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Let two neighbouring accesses of different CPUs to one place change their order."""
    places = [
        (number, index)
        for number, (_, order) in enumerate(plan.orders)
        for index in range(len(order) - 1)
        if order[index] != order[index + 1]
    ]
    if not places:
        return redraw_order(plan, orders, random)
    number, index = random.choice(places)
    place, order = plan.orders[number]
    swapped = (*order[:index], order[index + 1], order[index], *order[index + 2 :])
    return replace(plan, orders=(*plan.orders[:number], (place, swapped), *plan.orders[number + 1 :]))


def redraw_order(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Keep how an order begins, and draw the rest of it; of a place without one, all of it."""
    known = [(number, place) for place, number in orders.numbers.items() if place in orders.races.places]
    if not known:
        return replace(plan, draws=random.randbytes(DRAWS))
    number, place = random.choice(known)
    kept = dict(plan.orders)
    begun = kept.get(number, ())
    kept[number] = orders.draw_order(place, random, begun[: random.randint(0, len(begun))])
    return replace(plan, orders=tuple(kept.items()))


def drop_order(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Leave the accesses to one place to the priorities."""
    if not plan.orders:
        return redraw_order(plan, orders, random)
    number = random.randrange(len(plan.orders))
    return replace(plan, orders=(*plan.orders[:number], *plan.orders[number + 1 :]))


def rank_first(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Rank the order of one place above all others."""
    if len(plan.orders) < 2:
        return redraw_order(plan, orders, random)
    first = random.choice(plan.orders)
    return replace(plan, orders=(first, *(one for one in plan.orders if one is not first)))


def redraw_priorities(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Keep the first priorities, and draw the rest."""
    kept = plan.draws[: random.randint(0, len(plan.draws))]
    return replace(plan, draws=kept + random.randbytes(max(0, DRAWS - len(kept))))


def take_prefix(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Keep the first bursts, and draw anew how it goes on."""
    if not plan.bursts:
        return redraw_order(plan, orders, random)
    drawn = orders.draw(random)
    return replace(drawn, bursts=plan.bursts[: random.randrange(len(plan.bursts))], values=plan.values)


def move_switch(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Move a change point: make a burst a little longer or shorter, or last to the end."""
    if not plan.bursts:
        return swap_accesses(plan, orders, random)
    index = random.randrange(len(plan.bursts))
    agent, steps = plan.bursts[index]
    if steps >= TO_THE_END:
        steps = random.randint(1, MAX_BURST)
    else:
        steps = TO_THE_END if random.random() < 0.25 else max(1, steps + random.choice([-8, -3, -2, -1, 1, 2, 3, 8]))
    return replace(plan, bursts=(*plan.bursts[:index], (agent, steps), *plan.bursts[index + 1 :]))


def interrupt(plan: Plan, orders: Orders, random: Random) -> Plan:
    """Cut a burst in two and let another agent run in between."""
    if not plan.bursts:
        return swap_accesses(plan, orders, random)
    index = random.randrange(len(plan.bursts))
    agent, steps = plan.bursts[index]
    cut = random.randint(1, max(1, min(steps, MAX_BURST) - 1))
    rest = steps if steps >= TO_THE_END else max(1, steps - cut)
    between = random.randrange(MAX_AGENT), TO_THE_END if random.random() < 0.5 else random.randint(1, MAX_BURST)
    return replace(plan, bursts=(*plan.bursts[:index], (agent, cut), between, (agent, rest), *plan.bursts[index + 1 :]))


MUTATIONS: tuple[Mutation, ...] = (
    swap_accesses,
    swap_accesses,
    redraw_order,
    redraw_order,
    drop_order,
    rank_first,
    redraw_priorities,
    take_prefix,
    move_switch,
    interrupt,
)
"""What is drawn from, those twice that change least."""


def mutate(data: bytes, max_size: int, random: Random, known: Sequence[Orders], turn: int) -> bytes:
    """Return other bytes of at most `max_size`: a run a few changes away, or one that is drawn anew.

    `known` is what is known of each system; the system whose `turn` it is gets what is drawn anew.
    """
    fresh = random.random() < FRESH
    system, plan = (turn, _NOTHING) if fresh else decode(data, len(known))
    if not plan.bursts and not plan.orders:
        return encode(turn, known[turn].draw(random))[:max_size]
    for _ in range(random.choice([1, 1, 2, 3])):
        plan = random.choice(MUTATIONS)(plan, known[system], random)
    return encode(system, plan)[:max_size]
