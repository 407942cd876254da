"""Verifying a scheme that is the user's: it is checked to do the same every time, or there is no verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.verdict import DisagreementError, Verdict
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism.asked import Driving
from fuzzvm.verify.determinism.behaviour import Behaviour, UnsendableError
from fuzzvm.verify.determinism.drive import Difference, place_of, repeats
from fuzzvm.verify.determinism.elsewhere import NondeterministicSchemeError, ask
from fuzzvm.verify.determinism.from_automata import behaviour_of
from fuzzvm.verify.determinism.sources import is_users

LEAST_SECONDS = 1.0
"""That second processes have, however small a bound is: starting one takes half of it."""

OnExplored = Callable[[Space], None]
"""Told of the space that a search has explored."""


def verified(system: System, search: Callable[[OnExplored | None], Verdict]) -> tuple[Verdict, Driving | None]:
    """Return what a search says of a system, and what a second process is to be asked before that is believed.

    None where the scheme ships with fuzzvm. Raises NondeterministicSchemeError where the scheme is seen not to do the
    same every time already, and what the search raises.
    """
    if not is_users(system.mitigation):
        return search(None), None
    found = repeats(system)
    if found is not None:
        raise _error(found)
    behaviours: list[Behaviour] = []

    def explored(space: Space) -> None:
        try:
            behaviours.append(behaviour_of(system, space))
        except UnsendableError as error:
            place = place_of(system.mitigation)
            raise ProgramError(f"not fit for a second process: {error}", place.filename, place.line) from error

    try:
        verdict = search(explored)
    except DisagreementError as error:
        # what a hook has done in the search, it has not done in a run: a second process can say where
        for behaviour in behaviours:
            ask(system.mitigation, [_driving(system, behaviour)])
        place = place_of(system.mitigation)
        message = f"the scheme does not do the same every time: {error}"
        raise NondeterministicSchemeError(message, place.filename, place.line) from error
    # a start that goes wrong is explored by nobody
    return verdict, _driving(system, behaviours[0]) if behaviours else None


def check(mitigation: type[Mitigation], questions: Iterable[Driving | None], max_seconds: float | None = None) -> None:
    """Ask second processes, of each question that there is, whether a mitigation does the same there.

    They have so many seconds, and LEAST_SECONDS in any case. Raises as `ask` does.
    """
    asked = [question for question in questions if question is not None]
    if asked:
        ask(mitigation, asked, None if max_seconds is None else time.monotonic() + max(max_seconds, LEAST_SECONDS))


def _driving(system: System, behaviour: Behaviour) -> Driving:
    return Driving(system.scenario, system.memory, system.without, behaviour)


def _error(found: Difference) -> NondeterministicSchemeError:
    return NondeterministicSchemeError(found.message, found.place.filename, found.place.line)
