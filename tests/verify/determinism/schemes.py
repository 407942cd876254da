"""Schemes that do not do the same every time, each in one way; a mark says where."""

from __future__ import annotations

import datetime
import os
import random
import time
from dataclasses import dataclass
from typing import Any

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Address, Barrier, Fence, Order, Rmw, Steps, Store
from tests.verify.determinism.steady import Locked

CALLS = 0
REMEMBERED: dict[str, int] = {}
AT_IMPORT = random.random()
DRAWN = random.Random(4)


def fence() -> Steps[None]:
    yield Fence(Barrier.DSB_ISH)


class OrderOfASet(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        first, _ = {"one", "other"}
        yield Fence(Barrier.DSB_ISH if first == "one" else Barrier.DSB_ISHST)  # HERE


class HashOfAText(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield Fence(Barrier.DSB_ISH if hash("text") % 2 else Barrier.DSB_ISHST)  # HERE


class AddressOfAnObject(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        odd = (id(k) >> 4) * 2654435761 >> 7 & 1
        yield Fence(Barrier.DSB_ISH if odd else Barrier.DSB_ISHST)  # HERE


class NumberOfTheProcess(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        if os.getpid() != PROCESS:
            yield from fence()  # HERE


PROCESS = int(os.environ.setdefault("FUZZVM_TEST_PROCESS", str(os.getpid())))


class TimeOfDay(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        # a clock that goes on, but not in this century
        if time.time() > 5e9:  # HERE
            yield from fence()
        yield from ()


class Today(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        if datetime.datetime.now().year > 2200:  # HERE
            yield from fence()
        yield from ()


class RarelyAtRandom(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        if random.random() < 1e-9:  # HERE
            yield from fence()
        yield from ()


class RarelyFromAGeneratorOfItsOwn(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        if DRAWN.random() < 1e-9:  # HERE
            yield from fence()
        yield from ()


class BytesOfTheSystem(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        if os.urandom(8) == bytes(8):  # HERE
            yield from fence()
        yield from ()


class RandomAtImport(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield Fence(Barrier.DSB_ISH if AT_IMPORT < 0.5 else Barrier.DSB_ISHST)  # HERE


class GlobalCounter(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        global CALLS
        CALLS += 1
        yield Fence(Barrier.DSB_ISH if CALLS % 2 else Barrier.DSB_ISHST)  # HERE


class GrowingCounter(Locked):
    """No search of it ends: each call makes a state that nobody has seen."""

    word: Address

    def attach(self, boot: Boot) -> None:
        self.word = boot.word("counter")

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        global CALLS
        CALLS += 1
        yield Store(self.word, CALLS)  # HERE


class OnlyOnce(Locked):
    """Keeps on the class whether it was called."""

    called = False

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        if not OnlyOnce.called:
            OnlyOnce.called = True
            yield from fence()  # HERE


class DefaultArgument(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield from self._count()  # HERE

    @staticmethod
    def _count(counts: list[int] = [0]) -> Steps[None]:  # noqa: B006
        counts[0] += 1
        yield Fence(Barrier.DSB_ISH if counts[0] % 2 else Barrier.DSB_ISHST)


class KeptForTheOtherCpu(Locked):
    """What the free remembers, the walk goes by, though both are the same for the CPU that asks."""

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        REMEMBERED["freed"] = 1
        yield from ()

    def before_walk(self, k: Kernel, mm: object) -> Steps[None]:  # HERE
        if REMEMBERED.get("freed"):
            yield from fence()


@dataclass(frozen=True, slots=True)
class Flip:
    """What memory calls to update a word, and no program."""

    def __call__(self, old: Any) -> Any:
        global CALLS
        CALLS += 1
        return CALLS % 2


class UpdateOfAWord(Locked):
    word: Address

    def attach(self, boot: Boot) -> None:
        self.word = boot.word("flipped")

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield Rmw(self.word, Flip(), Order.ACQUIRE_RELEASE)
        yield from fence()  # HERE


class AnswerThatChanges(Mitigation):
    name = "answer-that-changes"

    def huge_vmap_allowed(self) -> bool:  # HERE
        global CALLS
        CALLS += 1
        return CALLS % 3 > 0


class PromotionThatChanges(Locked):
    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        yield from fence()  # HERE
        return "promotes" in list({"promotes", "falls back"})[:1]


class SetUpByAnOrder(Locked):
    """Its locks lie where the order of a set has put them."""

    def attach(self, boot: Boot) -> None:
        self.words = tuple((name, boot.word(name)) for name in {"first", "second"})

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield Store(dict(self.words)["first"], 1)  # HERE


CHANGING = [
    OrderOfASet,
    HashOfAText,
    AddressOfAnObject,
    NumberOfTheProcess,
    TimeOfDay,
    Today,
    RarelyAtRandom,
    RarelyFromAGeneratorOfItsOwn,
    BytesOfTheSystem,
    RandomAtImport,
    GlobalCounter,
    GrowingCounter,
    OnlyOnce,
    DefaultArgument,
    KeptForTheOtherCpu,
    UpdateOfAWord,
    AnswerThatChanges,
    PromotionThatChanges,
    SetUpByAnOrder,
]
