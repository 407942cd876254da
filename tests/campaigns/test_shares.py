"""Who gets CPU time: what pays more, and everybody some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.campaigns.shares import LATELY, TimeShares

rates = st.integers(0, 20)


def spent(shares: TimeShares[str], paying: Mapping[str, float], seconds: dict[str, float], tasks: int) -> Counter[str]:
    """Return the CPU seconds of each after so many tasks, which pay and take the same each time."""
    used: Counter[str] = Counter()
    for _ in range(tasks):
        choice = shares.next()
        shares.ended(choice, paying[choice] * seconds[choice], seconds[choice])
        used[choice] += seconds[choice]  # type: ignore[assignment]
    return used


@settings(max_examples=20)
@given(st.lists(rates, min_size=1, max_size=6), st.data())
def test_time_goes_half_to_all_alike_and_half_to_what_pays(paying: list[int], data: st.DataObject) -> None:
    names = [str(number) for number in range(len(paying))]
    seconds = {name: data.draw(st.floats(min_value=0.2, max_value=2)) for name in names}
    pays = dict(zip(names, paying, strict=True))
    shares = TimeShares(names)
    assert abs(sum(shares.shares().values()) - 1) < 1e-9
    spent(shares, pays, seconds, 100)
    used = spent(shares, pays, seconds, 800)
    total = sum(used.values())
    for name in names:
        part = pays[name] / sum(paying) if any(paying) else 1 / len(names)
        assert abs(used[name] / total - (1 / len(names) + part) / 2) < 0.05


def test_what_no_longer_pays_falls_back() -> None:
    shares = TimeShares(["old", "new"])
    alike = {"old": 1.0, "new": 1.0}
    spent(shares, {"old": 10, "new": 0}, alike, 100)
    assert shares.shares()["old"] > 0.7
    spent(shares, {"old": 0, "new": 1}, alike, 10 * LATELY)
    assert shares.shares()["old"] < 0.3


def test_what_is_dropped_is_not_chosen() -> None:
    shares = TimeShares(["a", "b"])
    shares.drop("a")
    assert {shares.next() for _ in range(10)} == {"b"}
    shares.drop("b")
    assert not shares
