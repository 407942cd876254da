"""fuzzvm.machine.schedule: schedules and their text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.machine.schedule import MAX_STEPS, Step, context_switches, format_schedule, parse_schedule

STEPS = st.lists(st.integers(0, 999_999), min_size=1, max_size=4).map(tuple)
SCHEDULES = st.lists(st.one_of(STEPS, st.sampled_from([(0,), (1,)])), max_size=60).map(tuple)


@given(SCHEDULES)
def test_text_round_trips(schedule: tuple[Step, ...]) -> None:
    assert parse_schedule(format_schedule(schedule)) == schedule


@given(SCHEDULES)
def test_text_joins_equal_neighbours(schedule: tuple[Step, ...]) -> None:
    words = format_schedule(schedule).split()
    steps = [word.split("*")[0] for word in words]
    assert all(a != b for a, b in itertools.pairwise(steps))


def test_text_is_the_documented_one() -> None:
    schedule = ((0,),) * 12 + ((1,),) * 3 + ((0,), (1, 2))
    assert format_schedule(schedule) == "0*12 1*3 0 1.2"
    assert parse_schedule(" 0*12\n1*3\t0 1.2 ") == schedule
    assert parse_schedule("") == ()


@pytest.mark.parametrize(
    "word",
    [
        "x",
        "-1",
        "1.",
        ".1",
        "1*",
        "*2",
        "1*0",
        "1*-1",
        "1**2",
        "1*2*3",
        "1..2",
        "0x1",
        "1,2",
        "1.5e3",
        "\u0661",
        "1234567",
    ],
)
def test_nonsense_is_refused_by_name(word: str) -> None:
    with pytest.raises(ValueError, match="is not a step") as caught:
        parse_schedule(f"0*3 {word} 1")
    assert repr(word) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    try:
        schedule = parse_schedule(text)
    except ValueError:
        return
    assert parse_schedule(format_schedule(schedule)) == schedule


def test_a_short_text_cannot_ask_for_unbounded_memory() -> None:
    assert len(parse_schedule(f"0*{MAX_STEPS}")) == MAX_STEPS
    with pytest.raises(ValueError, match=f"more than {MAX_STEPS} steps"):
        parse_schedule(f"0*{MAX_STEPS} 1")
    with pytest.raises(ValueError, match="more than"):
        parse_schedule(" ".join(["0*9999999"] * 1000))


@given(SCHEDULES)
def test_context_switches_count_changes_of_the_agent_only(schedule: tuple[Step, ...]) -> None:
    agents = [step[0] for step in schedule]
    runs = len([agent for place, agent in enumerate(agents) if place == 0 or agents[place - 1] != agent])
    assert context_switches(schedule) == max(runs - 1, 0)
