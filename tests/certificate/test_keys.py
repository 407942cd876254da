"""fuzzvm.certificate.keys: two values have one key only if no program can tell them apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NamedTuple

import pytest

from fuzzvm.certificate.keys import Keys
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import UnkeyableValueError
from fuzzvm.machine.ops import Barrier, Fence, Load, Order


class Pair(NamedTuple):
    one: object
    two: object


@dataclass(frozen=True)
class Frozen:
    part: object


DIFFERENT = [
    0, 1, 2, 3, 4, -1, True, False, None, "", "1", b"1", (), (1,), (True,), ((1,),), Pair(1, 2), (1, 2), frozenset({1}),
    frozenset({True}), Frozen(1), Frozen(True), Level.PMD, Barrier.ISB, Load(1), Load(1, Order.ACQUIRE),
    Load(True), Fence(Barrier.ISB), int, len,
]  # fmt: skip


def test_different_values_have_different_keys() -> None:
    keys = Keys()
    for one, two in combinations(DIFFERENT, 2):
        assert keys.of_value(one) != keys.of_value(two), (one, two)


def test_equal_values_have_equal_keys() -> None:
    keys = Keys()
    for make in (
        lambda: (1, "a" * 9),
        lambda: Frozen((1, 2)),
        lambda: Pair(1, frozenset({2})),
        lambda: Load(3, point="x"),
    ):
        assert keys.of_value(make()) == keys.of_value(make())


@pytest.mark.parametrize("value", [[], {}, set(), [1], (1, []), Frozen([]), object(), partial(int)])
def test_what_may_change_has_no_key(value: object) -> None:
    with pytest.raises(UnkeyableValueError):
        Keys().of_value(value)
