"""How deep a bug is, and how likely the random walk is to hit it: computed from the state space, not measured.

The depth of a bug is the least number of ordering constraints (one step before another, of two CPUs) that make every
run that obeys them fail (Burckhardt et al., ASPLOS 2010, section 2.1). Exhaustive search bounds it from both sides:

- A run with s context switches is fixed by s constraints, each CPU's last step before a switch and the next one's
  first after it, so a bug is no deeper than its failing runs have switches.
- Any d constraints that can be obeyed at all are obeyed by some run with fewer than d preemptions. Begin with the CPU
  of a first step that no other constraint holds up, and run each CPU until it ends, is blocked, or stands before a step
  whose constraint is not met yet: that happens once a constraint at most, and never for the first one. Where no run
  with fewer than d preemptions fails, the bug is deeper than d. Where a CPU would be blocked if it began alone, it may
  be d preemptions, and the bound is lower by one.

Where both meet, that is the depth.
"""

from __future__ import annotations

import math
from collections import defaultdict

from fuzzvm.exhaustive import Limits
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.shortest import shortest_run
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine.schedule import context_switches
from fuzzvm.scenario.system import System


def depth_bounds(system: System) -> tuple[int, int]:
    """Return the least and the greatest depth that the system's shallowest bug may have.

    Raises ValueError where no run fails.
    """
    space = Space(system)
    shortest = shortest_run(space, Limits())
    if shortest.schedule is None:
        raise ValueError("no run fails")
    preemptions = 0
    while shortest_run(space, Limits(), most_switches=preemptions, preemptions=True).schedule is None:
        preemptions += 1
    alone = not any(_waits_alone(space, lane.cpu) for lane in space.lanes)
    return max(1, preemptions + alone), max(1, context_switches(shortest.schedule))


def _waits_alone(space: Space, cpu: int) -> bool:
    """Return whether a CPU is blocked where it alone has run; of several ways its step may take, the first is taken."""
    state = space.start
    assert isinstance(state, int)
    while ways := [way for agent, way in space.steps(state) if agent == cpu and way.finding is None]:
        state += ways[0].delta
    return bool(space.lanes[cpu].local(state)) and not any(agent == cpu for agent, _ in space.steps(state))


def walk_chance(system: System) -> float:
    """Return the probability that a run of the random walk fails.

    The chance of each state is handed on to the states after it, in equal parts: one for each CPU that can step. Only
    for memory models with one way a step, and programs that end.
    """
    space = Space(system)
    if isinstance(space.start, Finding):
        return 1.0
    chances = {space.start: 1.0}
    failing = 0.0
    while chances:
        following: dict[int, float] = defaultdict(float)
        for state, chance in chances.items():
            steps = space.steps(state)
            if not steps and space.ended(state) is not None:
                failing += chance
            for _, way in steps:
                if way.finding is not None:
                    failing += chance / len(steps)
                else:
                    following[state + way.delta] += chance / len(steps)
        chances = following
    return failing


def median_runs(chance: float) -> int:
    """Return the median of the runs until one succeeds, where each does with that probability, above 0."""
    return 1 if chance >= 0.5 else math.ceil(math.log(0.5) / math.log1p(-chance))
