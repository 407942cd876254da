"""What second processes are asked. They start the sooner the less is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.verify.determinism.behaviour import Behaviour
from fuzzvm.verify.determinism.drive import difference
from fuzzvm.verify.determinism.sources import Source


@dataclass(frozen=True)
class Nondeterminism:
    """What is not the same, in one line; and where, if a place in the code is known."""

    message: str
    filename: str = ""
    line: int = 0


class DeterminismQuestion(Protocol):
    """A question about a mitigation."""

    def answered(self, mitigation: type[Mitigation], passes: int) -> Nondeterminism | None:
        """Return what is not the same in this process, however often it is done again; None if nothing was found."""


@dataclass(frozen=True)
class Driving:
    """Do the programs of a system behave so?"""

    scenario: Scenario
    memory: str
    without: tuple[str, ...]
    behaviour: Behaviour

    def answered(self, mitigation: type[Mitigation], passes: int) -> Nondeterminism | None:
        """Return the first difference. Raises as `System` does, and for responses that cannot be made here."""
        system = System(self.scenario, mitigation, self.memory, without=self.without)
        found = difference(system, self.behaviour, passes)
        return None if found is None else Nondeterminism(found.message, found.place.filename, found.place.line)


@dataclass(frozen=True)
class Asked:
    """Questions about one mitigation. What it keeps from call to call shows in a second of the `passes`."""

    source: Source
    questions: tuple[DeterminismQuestion, ...]
    passes: int
