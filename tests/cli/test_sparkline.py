"""Sparklines: what they show of a count that grows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.cli.sparkline import BLOCKS, Growth, sparkline

COUNTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=50)


@given(COUNTS)
def test_it_rises_as_the_values_do(counts: list[int]) -> None:
    line = sparkline(sorted(counts))
    assert list(line) == sorted(line, key=BLOCKS.index)
    assert not line if max(counts) == 0 else line[-1] == BLOCKS[-1] and len(line) == len(counts)


@given(COUNTS, st.integers(1, 30))
def test_samples_grow_and_end_where_the_count_ended(steps: list[int], width: int) -> None:
    growth, count = Growth(), 0
    for at, step in enumerate(steps):
        count += step
        growth.add(float(at), count)
    sampled = growth.sampled(width)
    assert len(sampled) == width and sampled == sorted(sampled) and sampled[-1] == count


def test_a_long_search_keeps_few_points() -> None:
    growth = Growth()
    for at in range(50_000):
        growth.add(float(at), at)
    assert growth.sampled(1) == [49_999]
    assert abs(growth.sampled(2)[0] - 25_000) < 100
    assert len(growth._points) <= 4096


def test_nothing_counted_is_no_line() -> None:
    growth = Growth()
    assert growth.line() == ""
    growth.add(1.0, 0)
    assert growth.line() == ""
    assert sparkline([0, 1, 2, 4]) == "▁▃▅█"
