"""Prints a result the way herd7 does, so that scripts that read herd7's output read ours.

What differs: the counts of `Witnesses` and `Observation` are numbers of final states, where herd7 counts candidate
executions; there is no `Hash` line; and where herd7 says Ok or No of a test that it has not explored to its end, or no
execution of which ends, there is Undecided or Vacuous.
"""

from __future__ import annotations

from fuzzvm.litmus import Result
from fuzzvm.litmus.program import Place

_KINDS = {"exists": "Allowed", "~exists": "Forbidden", "forall": "Required"}


def state_lines(result: Result) -> list[str]:
    """Return one line a final state, in herd7's order: `0:X0=1; [x]=2;`."""
    return [_state_line(result, state) for state in result.states]


def _state_line(result: Result, state: tuple[str, ...]) -> str:
    values = []
    faults = []
    for place, value in zip(result.places, state, strict=True):
        if isinstance(place, Place):
            values.append(f"{place}={value};")
        else:
            faults.append(f" {value};" if value[0] == "F" else f"  {value};")
    return " ".join(values) + "".join(faults)


def format_result(result: Result, seconds: float) -> str:
    """Return herd7's text for a result that took `seconds`; it ends with an empty line."""
    lines = [
        f"Test {result.name} {_KINDS[result.quantifier]}",
        f"States {len(result.states)}",
        *state_lines(result),
        ("Loop " if result.cut else "") + result.verdict,
        "Witnesses",
        f"Positive: {result.positive} Negative: {result.negative}",
        f"Condition {result.quantifier} ({result.condition})",
        f"Observation {result.name} {result.observation} {result.positive} {result.negative}",
        f"Time {result.name} {seconds:.2f}",
        "",
        "",
    ]
    return "\n".join(lines)
