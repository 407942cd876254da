"""The last lines of a test run: what was replayed and searched, and what was found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fuzzvm.files.printable import printable

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


def write(reporter: TerminalReporter, properties: Iterable[tuple[str, Any]]) -> None:
    """Write the summary of what the tests recorded: pairs of a name and a value, of all processes together."""
    values: dict[str, list[Any]] = {}
    for name, value in properties:
        values.setdefault(name, []).append(value)
    parts = []
    if replayed := values.get("fuzzvm_replay"):
        parts.append(f"{len(replayed)} corpus files replayed")
    if runs := values.get("fuzzvm_runs"):
        parts.append(f"{len(runs)} systems searched in {sum(runs)} runs")
    if states := values.get("fuzzvm_states"):
        parts.append(f"{len(states)} proved over {sum(states)} states")
    reporter.section("fuzzvm")
    reporter.write_line(", ".join(parts) or "nothing was searched")
    for error in values.get("fuzzvm_error", []):
        reporter.write_line(f"found: {error}")
    for path in values.get("fuzzvm_saved", []):
        reporter.write_line(printable(f"saved: {path}"))
