"""A verdict that can be believed: it says what happened, and what is still to be asked of a scheme of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.verdict import Verdict
from fuzzvm.scenario.purpose import missing
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism.asked import Driving
from fuzzvm.verify.determinism.verified import OnExplored, verified
from fuzzvm.verify.met import met_in


def judged(system: System, search: Callable[[OnExplored], Verdict]) -> tuple[Verdict, Driving | None]:
    """Return what a search says of a system, with the cover points that it has met, and those that it lacks.

    `search` is given what it is to tell of the space that it has explored. The second value is what second processes
    are to be asked before the verdict is believed, None where the scheme ships. Raises as `verified` does.
    """
    met: list[frozenset[str]] = []

    def search_and_look(explored: OnExplored | None) -> Verdict:
        def look(space: Space) -> None:
            met.append(met_in(system, space))
            if explored is not None:
                explored(space)

        return search(look)

    verdict, question = verified(system, search_and_look)
    # a run that goes wrong before its first step is explored by nobody
    happened = met[0] if met else frozenset[str]()
    lacks = missing(system, happened) if verdict.failure is None else ()
    return replace(verdict, met=happened, missing=lacks), question
