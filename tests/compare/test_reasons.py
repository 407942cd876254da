"""Reasons for differences, each held to what it explains in Linux 7.3 (gcc 12; 3 and 4 levels; LSE and LL/SC).

`differences-7.3.json` is what `fuzzvm image compare --release linux-7.3 --json` has said of these images, without the
source lines: kind, function, operation and inlined functions of each difference, with its reason.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.compare.align import Difference
from fuzzvm.compare.operations import LEVELS, Entry, Place, Visible
from fuzzvm.compare.reasons import REASONS, reason_for

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "differences-7.3.json").read_text())


def difference(recorded: dict[str, Any]) -> Difference:
    kind, place, detail, order = recorded["operation"]
    where: Entry | str = Entry(place, (0,)) if place in LEVELS[4] else place
    names = (*recorded["inner"], recorded["function"])
    one = Visible(kind, where, detail, order, recorded["function"], tuple(Place(name, "", 0) for name in names))
    other = replace(one, order="acquire") if recorded["what"] == "another ordering" else None
    return Difference(recorded["what"], one, other)


@pytest.mark.parametrize(
    "recorded", RECORDED, ids=lambda one: f"{one['function']}-{one['operation'][1]}-{one['reason']}"
)
def test_a_difference_of_7_3_has_its_reason(recorded: dict[str, Any]) -> None:
    reason = reason_for(difference(recorded))
    assert reason is not None
    assert reason.name == recorded["reason"]


def test_no_reason_is_for_nothing() -> None:
    """Each reason explains a recorded difference, with each function inside and each operation that it names."""
    for reason in REASONS:
        explained = [one for one in map(difference, RECORDED) if reason_for(one) is reason]
        assert explained, reason.name
        assert {one.operation[:3] for one in explained} == set(reason.operations), reason.name
        for name in reason.via:
            assert any(name in one.inner for one in explained), f"{reason.name}: {name}"
        for function in reason.functions:
            assert any(one.function == function for one in explained), f"{reason.name}: {function}"


@pytest.mark.parametrize("reason", REASONS, ids=lambda one: one.name)
def test_a_reason_is_narrow(reason: Any) -> None:
    """Another function, another kind of difference, another operation or another place inside is drift."""
    recorded = next(one for one in RECORDED if one["reason"] == reason.name)
    assert reason_for(difference({**recorded, "function": "vfree"})) is None
    assert reason_for(difference({**recorded, "what": "missing"})) is None
    assert reason_for(difference({**recorded, "operation": ["write", *recorded["operation"][1:]]})) is None
    if reason.via:
        assert reason_for(difference({**recorded, "inner": []})) is None


def test_no_reason_is_for_what_a_walk_reads_below_the_root() -> None:
    """A walk that reads a PMD or a PTE once more than the model is the race itself."""
    for function, level in (("walk_pmd_range", "pmd"), ("walk_pte_range", "pmd"), ("ptdump_pte_entry", "pte")):
        one = {"what": "read again", "function": function, "operation": ["read", level, "", ""], "inner": []}
        assert reason_for(difference(one)) is None
