"""Planted bugs of known depth: a run goes wrong if and only if a chain of events happens in one order.

The depth of a bug is the number of ordering constraints between CPUs that it needs (Burckhardt et al., ASPLOS 2010,
section 2.1). Events alternate between a promoter and a walker, each bumps one counter if it is the next of the chain,
and the last one fails where all came in order: as many constraints as events but one, which `fuzzvm.bench.depth`
confirms for each bug from its state space. Between the events of a CPU stand fillers: in half
of the bugs updates of a word that both CPUs write, races that do no harm, else loads of one that nobody writes. Each
bug is a row of `PLANTED`, and a mitigation of this module: `fuzzvm fuzz -m FILE:Name` finds it too.
Nothing else can go wrong: the scheme beside it is `mmap-lock-always`, which is safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from fuzzvm.bench.flat_model import Add
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Load, Rmw, Steps
from fuzzvm.mitigations.mmap_lock_always import MmapLockAlways
from fuzzvm.scenario.calls import CatKernelPageTables, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario

if TYPE_CHECKING:
    from fuzzvm.kernel.hooks import Mitigation, Verdict
    from fuzzvm.kernel.kernel import Boot, Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.kernel.pgtable import Level

PLANTED_ERROR = "planted-bug"

SCENARIO = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (Vmap(0, 2, "pte"), Vunmap(0, 2)),
    ((Vmap(0, 2, "pmd"),), (CatKernelPageTables(),)),
    name="planted",
)


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug: the fillers before each event of the promoter and of the walker, and who has the first event."""

    name: str
    promoter: tuple[int, ...]
    walker: tuple[int, ...]
    walker_first: bool = False

    @property
    def depth(self) -> int:
        """Number of ordering constraints."""
        return len(self.promoter) + len(self.walker) - 1

    @property
    def races(self) -> bool:
        """Whether its fillers conflict with those of the other CPU."""
        return self.name[-1] in "BD"


DRAWN = (
    Planted("Drawn2A", (4, 12), (0,)),
    Planted("Drawn2B", (12,), (9, 6), True),
    Planted("Drawn2C", (3, 9), (17,)),
    Planted("Drawn2D", (17,), (7, 11), True),
    Planted("Drawn3A", (1, 17), (2, 10)),
    Planted("Drawn3B", (1, 14), (0, 13), True),
    Planted("Drawn3C", (2, 2), (6, 0)),
    Planted("Drawn3D", (13, 4), (10, 8), True),
    Planted("Drawn4A", (6, 8, 3), (10, 3)),
    Planted("Drawn4B", (9, 9), (1, 10, 5), True),
    Planted("Drawn4C", (5, 1, 3), (10, 3)),
    Planted("Drawn4D", (8, 1), (2, 3, 1), True),
    Planted("Drawn5A", (3, 0, 14), (7, 8, 2)),
    Planted("Drawn5B", (0, 4, 5), (0, 0, 5), True),
    Planted("Drawn5C", (10, 0, 0), (2, 7, 2)),
    Planted("Drawn5D", (6, 7, 3), (0, 6, 0), True),
)
"""Four bugs of each depth, by turns begun by the promoter and by the walker. So that nobody chose what suits an engine,
their events stand at places drawn evenly from 20, with one seed (2018) for all."""

WINDOWS = (
    Planted("Window2A", (2, 0), (15,)),
    Planted("Window2B", (12,), (3, 0), True),
    Planted("Window3A", (2, 0), (12, 2)),
    Planted("Window3B", (12, 2), (3, 0), True),
    Planted("Window3C", (2, 1), (8, 8)),
    Planted("Window4A", (2, 0, 0), (8, 8)),
    Planted("Window4B", (8, 8), (3, 0, 0), True),
    Planted("Window5A", (2, 0, 0), (7, 7, 2)),
    Planted("Window5B", (7, 7, 2), (3, 0, 0), True),
)
"""Bugs shaped like the race itself: one CPU stands between two steps that follow each other, as a walker between the
read of an entry and the read through it, while the other one takes many."""

DEEP = (
    Planted("Deep3A", (23, 0), (5, 12)),
    Planted("Deep3B", (6, 1), (6, 22), True),
    Planted("Deep3C", (22, 10), (8, 11)),
    Planted("Deep3D", (5, 0), (15, 19), True),
    Planted("Deep4A", (10, 10, 17), (3, 9)),
    Planted("Deep4B", (18, 1), (1, 4, 2), True),
    Planted("Deep4C", (11, 3, 21), (4, 27)),
    Planted("Deep4D", (27, 1), (0, 3, 10), True),
    Planted("Deep5A", (13, 13, 7), (1, 1, 14)),
    Planted("Deep5B", (5, 28, 0), (11, 1, 3), True),
    Planted("Deep5C", (5, 6, 25), (10, 5, 6)),
    Planted("Deep5D", (0, 5, 17), (7, 14, 5), True),
)
"""Bugs that the random walk seldom hits: drawn like `DRAWN`, from 40 places (seed 2010), and passed over where a run of
the random walk hits them with a chance of `SELDOM` or more. 39 were drawn to find these."""

SELDOM = 0.01

PLANTED = (*DRAWN, *WINDOWS, *DEEP)


def draw(random: Random, places: int, depth: int, *, walker_first: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the fillers of promoter and walker before events at places drawn evenly from that many."""
    more = depth // 2 + 1
    less = depth + 1 - more
    return _gaps(random, places, less if walker_first else more), _gaps(random, places, more if walker_first else less)


def _gaps(random: Random, places: int, events: int) -> tuple[int, ...]:
    drawn = sorted(random.sample(range(places), events))
    return tuple(place - before - 1 for before, place in zip([-1, *drawn], drawn, strict=False))


@dataclass(frozen=True, slots=True)
class Next:
    """The event of that number: it counts where all before it have happened."""

    number: int

    def __call__(self, happened: int) -> int:
        return happened + 1 if happened == self.number else happened


class PlantedBug(MmapLockAlways):
    """A scheme with one of the bugs in it; subclasses name the bug."""

    one_walker: ClassVar[Verdict | None] = "bug"
    two_walkers: ClassVar[Verdict | None] = "bug"
    bug: ClassVar[Planted]
    happened: Address
    noise: Address

    def attach(self, boot: Boot) -> None:
        self.happened = boot.word("events that happened")
        self.noise = boot.word("what fillers touch")

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        yield from self._events(self.bug.promoter, int(self.bug.walker_first))
        return True

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[Any]:
        yield from self._events(self.bug.walker, int(not self.bug.walker_first))

    def _events(self, fillers: tuple[int, ...], first: int) -> Steps[None]:
        index = 0
        while index < len(fillers):
            left = fillers[index]
            while left:
                if self.bug.races:
                    yield Rmw(self.noise, Add(1))
                else:
                    yield Load(self.noise)
                left -= 1
            number = first + 2 * index
            happened = yield Rmw(self.happened, Next(number))
            if happened == number == self.bug.depth:
                raise ModelError(PLANTED_ERROR, f"{self.bug.depth + 1} events in the one order that goes wrong")
            index += 1


def mitigation_of(bug: Planted) -> type[PlantedBug]:
    """Return a scheme with that bug in it."""
    summary = f"planted bug of depth {bug.depth}"
    return type(
        bug.name,
        (PlantedBug,),
        {"bug": bug, "name": f"planted-{bug.name.lower()}", "summary": summary, "__module__": __name__},
    )


MITIGATIONS: dict[str, type[Mitigation]] = {bug.name: mitigation_of(bug) for bug in PLANTED}
"""The mitigation with each bug."""

# by their own names too, so that FILE.py:CLASS finds them
globals().update(MITIGATIONS)
