"""What the owner of a process makes of one that is not looked at inside, with a clock of the test's."""

from __future__ import annotations

import os

import pytest

from fuzzvm.supervision import outside
from fuzzvm.supervision.channel import STARVED_SECONDS, Channel, processor_of


@pytest.mark.parametrize(
    ("state", "used", "seconds", "ends"),
    [
        ("R", 0.0, 2.0, False),
        ("R", 0.0, STARVED_SECONDS + 1, True),
        ("R", 1.5, 2.0, True),
        ("S", 0.0, 2.0, True),
    ],
)
def test_a_process_is_not_ended_for_want_of_a_processor(
    state: str, used: float, seconds: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is past its end and is not looked at inside: it hangs, or it has had no processor to look on."""
    now, channel = 1000.0, Channel()
    monkeypatch.setattr(outside.time, "monotonic", lambda: now)
    monkeypatch.setattr(outside, "processor_of", lambda pid: (state, 0.0))
    channel.beat()
    channel.bound("the time is over", now + 0.1, 0)
    watched = outside.Watched(os.getpid(), channel)
    assert watched.trouble() is None
    monkeypatch.setattr(outside, "processor_of", lambda pid: (state, used))
    for _ in range(int(seconds * 10)):
        now += 0.1
        trouble = watched.trouble()
    assert (trouble is not None) == ends
    channel.close()


def test_the_processor_time_of_a_process() -> None:
    state, used = processor_of(os.getpid())
    assert state == "R" and used > 0
    assert processor_of(2**30) == ("", 0.0)
