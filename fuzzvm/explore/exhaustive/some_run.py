"""Some run that goes wrong, where there was no time or room to look for the shortest."""

from __future__ import annotations

from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.machine.schedule import Schedule, Step


def some_run(space: Space) -> Schedule | None:
    """Return a schedule that goes wrong, the first one found depth first, or None if there is none."""
    if isinstance(space.start, Finding):
        return ()
    path: list[Step] = []
    visited = {space.start}
    first: tuple[int, Step] = (space.start, ())
    branches = [iter([first])]
    while branches:
        following = next(branches[-1], None)
        if following is None:
            branches.pop()
            if path:
                path.pop()
            continue
        state, step = following
        if step:
            path.append(step)
        steps = space.steps(state)
        targets: list[tuple[int, Step]] = []
        for agent, way in steps:
            if way.finding is not None:
                return (*path, (agent, *way.choices))
            target = state + way.delta
            if target not in visited:
                visited.add(target)
                targets.append((target, (agent, *way.choices)))
        if not steps and space.ended(state) is not None:
            return tuple(path)
        branches.append(iter(targets))
    return None
