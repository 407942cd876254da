"""A scheme of the user's: it is checked to do the same every time, or there is no verdict."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.verdict import DisagreementError
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism.asked import Driving
from fuzzvm.verify.determinism.behaviour import UnsendableError
from fuzzvm.verify.determinism.drive import place_of, repeats
from fuzzvm.verify.determinism.elsewhere import NondeterministicSchemeError, ask
from fuzzvm.verify.determinism.from_automata import behaviour_of

LEAST_SECONDS = 1.0
"""That second processes have, however small a bound is: starting one takes half of it."""


def refuse_what_changes(system: System) -> None:
    """Raise NondeterministicSchemeError where a scheme is seen in this process not to do the same every time."""
    found = repeats(system)
    if found is not None:
        raise NondeterministicSchemeError(found.message, found.place.filename, found.place.line)


def driving(system: System, space: Space) -> Driving:
    """Return what a second process is to be asked before a verdict on this space is believed.

    Raises ProgramError where the scheme yields what cannot be sent there.
    """
    try:
        return Driving(system.scenario, system.memory, system.without, behaviour_of(system, space))
    except UnsendableError as error:
        place = place_of(system.mitigation)
        raise ProgramError(f"not fit for a second process: {error}", place.filename, place.line) from error


def disagreement(system: System, asked: Driving | None, error: DisagreementError) -> NondeterministicSchemeError:
    """Return what to raise where a run does not do what the search has found.

    Raises it already where a second process can say more.
    """
    # what a hook has done in the search, it has not done in a run: a second process can say where
    if asked is not None:
        ask(system.mitigation, [asked])
    place = place_of(system.mitigation)
    message = f"the scheme does not do the same every time: {error}"
    return NondeterministicSchemeError(message, place.filename, place.line)


def check(mitigation: type[Mitigation], questions: Iterable[Driving | None], max_seconds: float | None = None) -> None:
    """Ask second processes, of each question that there is, whether a mitigation does the same there.

    They have so many seconds, and LEAST_SECONDS in any case. Raises as `ask` does.
    """
    asked = [question for question in questions if question is not None]
    if asked:
        ask(mitigation, asked, None if max_seconds is None else time.monotonic() + max(max_seconds, LEAST_SECONDS))
