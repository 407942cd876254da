"""The inner loops of walks, compiled by numba: one function for each kind of chooser, and what they share.

`compiled` gives them arrays, and works out the steps that its table does not have. A loop comes back for each of
these, for what it cannot draw itself, and at the end of the run; called again, it goes on where it was.

A step's key is the number of the shared state, the local state of the CPU above it, and the CPU. Its value is the
shared state and the local state after it. With GATE, the value is whether the operation that may wait can be executed.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fuzzvm.exhaustive.loop import compiled, place
from fuzzvm.runs.plans.order_tree import COUNTED

UNKNOWN: Final = -1
FAILS: Final = -2
LOCAL_AT: Final = 32
CPU_AT: Final = 52
SHARED: Final = (1 << 32) - 1
GATE: Final = 1 << 61

ENDED, WRONG, ASKS_STEP, ASKS_GATE, ASKS_DRAWS = range(5)
"""What a loop comes back with: all programs have returned; the run has failed, is stuck, or is too long; and three
things that it has to be given."""

AT_SHARED, AT_STEPS, AT_AGENT, AT_CPU, AT_DRAWN, AT_LOGGED, AT_LIMIT, NOW = range(8)
"""Places in `now`: the shared state, the steps so far, the agent that has been chosen (-1 before that), the CPU that is
asked about, the draws that are used, the accesses that are noted, and the most steps of a run."""

FLAGS, ADDRESS, OBJECT, PLACE, FACTS = range(5)
"""Places in `facts`: what is known of a local state's operation; an address or object that it has not is -1."""
FREES, WRITES, RACES, WAITS = 1, 2, 4, 8


@compiled
def look_up(table: Any, key: int) -> int:
    size = table.shape[0]
    at = place(key, size)
    while table[at, 0] != 0:
        if table[at, 0] == key + 1:
            return table[at, 1]  # type: ignore[no-any-return]
        at = (at + 1) & (size - 1)
    return UNKNOWN


@compiled
def find_ready(table: Any, facts: Any, locals_: Any, now: Any, ready: Any) -> int:
    """Put the CPUs that can step into `ready`, and return how many; or -1 - one of the reasons to come back."""
    count = running = 0
    for cpu in range(locals_.size):
        local = locals_[cpu]
        if local == 0:
            continue
        running += 1
        if facts[cpu, local, FLAGS] & WAITS:
            goes_on = look_up(table, GATE | cpu << CPU_AT | local << LOCAL_AT | now[AT_SHARED])
            if goes_on == UNKNOWN:
                now[AT_CPU] = cpu
                return -1 - ASKS_GATE
            if goes_on == 0:
                continue
        ready[count] = cpu
        count += 1
    if count == 0:
        return -1 - (WRONG if running else ENDED)
    return -1 - WRONG if now[AT_STEPS] >= now[AT_LIMIT] else count


@compiled
def step(table: Any, locals_: Any, now: Any, path: Any) -> int:
    """Let the chosen agent step; return 0, or a reason to come back."""
    agent = now[AT_AGENT]
    value = look_up(table, agent << CPU_AT | locals_[agent] << LOCAL_AT | now[AT_SHARED])
    if value == UNKNOWN:
        now[AT_CPU] = agent
        return ASKS_STEP
    path[now[AT_STEPS], 0] = agent
    path[now[AT_STEPS], 1] = locals_[agent]
    now[AT_STEPS] += 1
    now[AT_AGENT] = -1
    if value == FAILS:
        return WRONG
    now[AT_SHARED] = value & SHARED
    locals_[agent] = value >> LOCAL_AT
    return 0


@compiled
def walk_pos(table: Any, facts: Any, locals_: Any, now: Any, path: Any, ready: Any, priorities: Any, draws: Any) -> int:
    """Walk as `strategies.pos` chooses; a priority is -1 where it has to be drawn."""
    while True:
        if now[AT_AGENT] < 0:
            count = find_ready(table, facts, locals_, now, ready)
            if count < 0:
                return -1 - count
            chosen = ready[0]
            for index in range(count):
                cpu = ready[index]
                if priorities[cpu] < 0:
                    if now[AT_DRAWN] == draws.size:
                        return ASKS_DRAWS
                    priorities[cpu] = draws[now[AT_DRAWN]]
                    now[AT_DRAWN] += 1
                if priorities[cpu] > priorities[chosen]:
                    chosen = cpu
            op = facts[chosen, locals_[chosen]]
            if op[FLAGS] & RACES:
                priorities[chosen] = -1
                for index in range(count):
                    cpu = ready[index]
                    other = facts[cpu, locals_[cpu]]
                    if cpu != chosen and (not other[FLAGS] & RACES or conflict(op, other)):
                        priorities[cpu] = -1
            now[AT_AGENT] = chosen
        why = step(table, locals_, now, path)
        if why:
            return why


@compiled
def conflict(one: Any, other: Any) -> bool:
    """Return whether two accesses may not commute."""
    if (one[FLAGS] | other[FLAGS]) & FREES:
        return bool(one[OBJECT] == other[OBJECT])
    return bool((one[FLAGS] | other[FLAGS]) & WRITES != 0 and one[ADDRESS] == other[ADDRESS])


@compiled
def comes_next(order: Any, length: int, ready: Any, count: int) -> int:
    """Return the first CPU of an order that can step; -1 if none can."""
    for index in range(length):
        for at in range(count):
            if ready[at] == order[index]:
                return order[index]  # type: ignore[no-any-return]
    return -1


@compiled
def walk_orders(
    table: Any,
    facts: Any,
    locals_: Any,
    now: Any,
    path: Any,
    ready: Any,
    priorities: Any,
    draws: Any,
    orders: Any,
    lengths: Any,
    ranks: Any,
    ordered: bool,
    log: Any,
    logged: Any,
) -> int:
    """Walk as `orders.FollowOrders` chooses where a plan has no bursts. `ranks` is -1 for a place without an order.

    The first accesses to each known place are noted in `log`, as `order_tree.take_in` takes them; `logged` counts those
    of each place.
    """
    free = np.zeros(ready.size, np.bool_)
    while True:
        if now[AT_AGENT] < 0:
            count = find_ready(table, facts, locals_, now, ready)
            if count < 0:
                return -1 - count
            chosen = ready[0]
            if count > 1:
                waiting, last = 0, -1
                for index in range(count):
                    cpu = ready[index]
                    free[cpu] = True
                    at = facts[cpu, locals_[cpu], PLACE]
                    if ordered and at >= 0 and ranks[at] >= 0:
                        following = comes_next(orders[at], lengths[at], ready, count)
                        if following != cpu and following != -1:
                            free[cpu] = False
                            waiting += 1
                            if last < 0 or ranks[at] > ranks[last]:
                                last = at
                if waiting == count:
                    for index in range(count):
                        cpu = ready[index]
                        free[cpu] = facts[cpu, locals_[cpu], PLACE] == last
                chosen = -1
                for index in range(count):
                    cpu = ready[index]
                    if not free[cpu]:
                        continue
                    if priorities[cpu] < 0:
                        priorities[cpu] = 0
                        if draws.size:
                            now[AT_DRAWN] += 1
                            priorities[cpu] = draws[now[AT_DRAWN] % draws.size]
                    if chosen < 0 or priorities[cpu] > priorities[chosen]:
                        chosen = cpu
            at = facts[chosen, locals_[chosen], PLACE]
            if at >= 0:
                wanted = -1
                if ranks[at] >= 0:
                    order = orders[at]
                    wanted = comes_next(order, lengths[at], ready, count)
                    for index in range(lengths[at]):
                        if order[index] == chosen:
                            for later in range(index + 1, lengths[at]):
                                order[later - 1] = order[later]
                            lengths[at] -= 1
                            break
                    priorities[:] = -1
                if logged[at] < COUNTED:
                    logged[at] += 1
                    entry = 3 * now[AT_LOGGED]
                    log[entry], log[entry + 1], log[entry + 2] = at, chosen, wanted
                    now[AT_LOGGED] += 1
            if facts[chosen, locals_[chosen], FLAGS] & RACES:
                priorities[chosen] = -1
            now[AT_AGENT] = chosen
        why = step(table, locals_, now, path)
        if why:
            return why
