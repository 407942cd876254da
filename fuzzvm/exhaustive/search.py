"""Is there a run that goes wrong? Visits every state once, by its exact value, until one does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import islice

from fuzzvm.exhaustive.checkpoint.errors import CheckpointError, DamagedError
from fuzzvm.exhaustive.checkpoint.kept import EVERY, PACKED, Kept, Restored, states
from fuzzvm.exhaustive.limits import Keeper, Limits, StoppedError, Watch
from fuzzvm.exhaustive.seen import Seen, visited_states
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Space, StateBoundError
from fuzzvm.exhaustive.symmetry import Symmetry
from fuzzvm.machine.schedule import Schedule


@dataclass(frozen=True)
class Searched:
    """What a search saw. `findings` are errors in the order found; `stopped` names the bound that cut it, '' if none.

    `ends` are the states in which runs end well; `passes` counts the rounds of a
    reduced search, and `endless` is a run that never ends. `space` is the space that was searched, where it is not the
    one that was asked about.
    """

    states: int
    transitions: int
    findings: tuple[Finding, ...]
    stopped: str = ""
    ends: frozenset[int] = frozenset()
    passes: int = 1
    endless: Schedule | None = None
    space: Space | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing was cut."""
        return not self.stopped


HAND_OVER = 200_000
"""States after which compiled code goes on, where it is installed: below, starting it takes longer than it saves."""


@cache
def has_compiled() -> bool:
    """Return whether there is what compiled code needs: the extra `fast`."""
    return all(find_spec(name) is not None for name in ("numpy", "numba"))


def search(
    space: Space,
    limits: Limits,
    *,
    first_only: bool = True,
    symmetry: Symmetry | None = None,
    hand_over: int | None = HAND_OVER,
    keeper: Keeper | None = None,
    restored: Restored | None = None,
) -> Searched:
    """Visit every state that can be reached; see Search. Raises AsymmetryError where CPUs are not alike that should."""
    one = Search(space, limits, first_only=first_only, symmetry=symmetry, hand_over=hand_over, keeper=keeper)
    if restored is not None:
        one.restore(restored)
    found = one.run()
    assert found is not None
    return found


class Search:
    """A search of every state that can be reached, depth first, which can pause and go on.

    It ends at the first error unless `first_only` is False. With `symmetry`, states that differ in the names of CPUs
    alone are one. Compiled code takes over after `hand_over` states, None for never; it knows neither symmetry nor
    memory models with choices. That changes nothing in what a search without errors returns, nor in one that does not
    end at the first. Seconds of `limits` count from when this is made.
    """

    def __init__(
        self,
        space: Space,
        limits: Limits,
        *,
        first_only: bool = True,
        symmetry: Symmetry | None = None,
        hand_over: int | None = HAND_OVER,
        keeper: Keeper | None = None,
    ) -> None:
        self.space = self._space = space
        self._first_only = first_only
        self._watch = Watch(limits, keeper, self)
        self._packed: Restored | None = None
        """Where compiled code was when the search was kept."""
        self._canonical = symmetry.canonical if symmetry is not None and symmetry.images else None
        compiled = self._canonical is None and not space.weak and has_compiled()
        self._hand_over = hand_over if compiled else None
        self._seen = Seen(set(), [])
        if isinstance(space.start, int):
            start = space.start if self._canonical is None else self._canonical(space.start)
            self._seen = Seen(visited_states([start], in_order=keeper is not None), [start])

    def kept(self) -> Kept:
        """Return what has been seen, between two states: what is left to do is on the stack."""
        seen, space = self._seen, self._space
        facts = {
            "kind": EVERY,
            "states": len(seen.visited),
            "transitions": seen.transitions,
            "findings": [list(one) for one in seen.findings],
        }
        columns = {"stack": states(seen.stack, space), "ends": states(seen.ends, space)}
        return Kept(facts, columns, {"visited": (seen.visited, seen.visited)})

    def restore(self, restored: Restored) -> None:
        """Go on where a search was kept. Raises CheckpointError."""
        space = self._space
        seen = self._seen = Seen(set(), [], transitions=restored.count("transitions"), findings=restored.findings())
        seen.ends.update(restored.states("ends", space))
        if restored.kind == PACKED:
            if self._hand_over is None:
                raise CheckpointError("written by compiled code, and the extra `fast` is not installed here")
            self._packed = restored
            return
        seen.visited = visited_states(restored.states("visited", space), in_order=True)
        restored.read("visited", seen.visited)
        seen.stack.extend(restored.states("stack", space))
        seen.states = len(seen.visited)
        if not seen.visited.issuperset(seen.stack):
            raise DamagedError("states to visit have not been seen")

    def run(self, pause: int | None = None) -> Searched | None:
        """Go on until no state is left, or an error or a limit ends it; or until there are `pause` states: then None.

        There is no pause once compiled code has taken over. Raises AsymmetryError where CPUs are not alike that should
        be.
        """
        space, seen = self._space, self._seen
        if isinstance(space.start, Finding):
            return Searched(1, 0, (space.start,))
        stopped = ""
        try:
            if pause is not None and not self._visit(pause):
                return None
            if (self._packed is not None or not self._visit(self._hand_over)) and not self._go_on():
                self._visit(None)
        except (StoppedError, StateBoundError) as bound:
            stopped = str(bound)
        except MemoryError:
            seen.visited.clear()
            seen.ends.clear()
            stopped = f"out of memory after {seen.states} states"
        return Searched(seen.states, seen.transitions, tuple(seen.findings), stopped, frozenset(seen.ends))

    def keep_with(self, keeper: Keeper | None) -> None:
        """Have it kept on disk from now on."""
        self._watch.keeper = keeper
        self._seen.visited = visited_states(self._seen.visited, in_order=keeper is not None)

    def sample(self, size: int) -> list[int]:
        """Return states spread over those visited so far, at least `size` where there are as many."""
        visited = self._seen.visited
        return list(islice(visited, 0, None, max(1, len(visited) // size)))

    def _go_on(self) -> bool:
        """Go on in compiled code; return whether that did all there is to do. Raises as `packed.go_on` does."""
        try:
            from fuzzvm.exhaustive import packed
        except ImportError:
            # it is installed and cannot be used, most often for a version of numpy that numba does not know
            return False
        return packed.go_on(self._space, self._seen, self._watch, first_only=self._first_only, restored=self._packed)

    def _visit(self, until: int | None) -> bool:
        """Visit states until none is left, or there are `until`; return whether none is, or an error ended it."""
        space, seen, watch, canonical, first_only = (
            self._space,
            self._seen,
            self._watch,
            self._canonical,
            self._first_only,
        )
        visited, stack, findings = seen.visited, seen.stack, seen.findings
        lanes = [(lane.mask, lane.table, lane.compute) for lane in space.lanes]
        transitions = seen.transitions
        watch.search = self
        weak = space.weak
        look = watch.next_look if until is None else min(watch.next_look, until)
        try:
            while stack and not (findings and first_only):
                state = stack.pop()
                before = transitions
                for mask, table, compute in lanes:
                    key = state & mask
                    entry = table.get(key)
                    if entry is None:
                        entry = compute(key)
                    if isinstance(entry, int):
                        if entry:
                            transitions += 1
                            following = state + entry
                            if following not in visited:
                                if canonical is not None and (following := canonical(following)) in visited:
                                    continue
                                visited.add(following)
                                stack.append(following)
                        continue
                    for _, delta, finding in entry:
                        transitions += 1
                        if finding is not None:
                            findings[finding] = None
                        elif (following := state + delta) not in visited:
                            if canonical is not None and (following := canonical(following)) in visited:
                                continue
                            visited.add(following)
                            stack.append(following)
                if weak:
                    for ways in space.agent_steps(state).values():
                        for _, delta, finding in ways:
                            transitions += 1
                            if finding is not None:
                                findings[finding] = None
                            elif (following := state + delta) not in visited:
                                visited.add(following)
                                stack.append(following)
                if transitions == before:
                    seen.end(state, space.ended(state))
                if len(visited) >= look:
                    if len(visited) >= watch.next_look:
                        seen.transitions = transitions
                        watch.look(len(visited))
                    if until is not None and len(visited) >= until:
                        return not stack or bool(findings and first_only)
                    look = watch.next_look if until is None else min(watch.next_look, until)
        finally:
            seen.states, seen.transitions = len(visited), transitions
        return True
