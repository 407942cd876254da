"""The words of a check's data that its reports ask for. They are the data's own: reports know no more of a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = 1
"""Counts up when a field of the data changes its meaning."""
GOOD = ("no change", "fixed")
BAD = ("broken", "still broken")
NOT_SEEN = ("did not run", "not compiled")


def verdict_in_words(run: Mapping[str, Any] | None) -> str:
    """Return a verdict that never says more than was explored."""
    if run is None:
        return "no time"
    if run["bug"]:
        return f"bug: {run['bug']}"
    if run["complete"] or run["verdict"] == "undecided":
        return str(run["verdict"])
    return f"{run['verdict']} within the bound"


def kernel_in_words(manifest: Mapping[str, Any]) -> str:
    """Return what an image was made of, in a line."""
    return (
        f"Linux {manifest['kernel']}, {manifest['arch']}, {manifest['page_size']} pages, {manifest['levels']} levels, "
        f"{manifest['compiler']}"
    )


def look_in_words(one: Mapping[str, Any]) -> str:
    """Return what became of a function that differs."""
    said = f"{one['state']}: {one['name']} ({one['file']})"
    if one["why"]:
        return f"{said}: {one['why']}"
    lines = f"{one['lines_ran']} of {one['lines']} changed lines, " if one["lines"] else ""
    return f"{said}: {lines}{'; '.join(one['pairs'])}" if one["pairs"] else said
