"""Parses KTAP version 1 strictly: Documentation/dev-tools/ktap.rst, without unknown lines. Raises ValueError."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_RESULT = re.compile(r"(ok|not ok) (\d+)(?: ([^#\n]*[^#\n ]))?(?: # (?:(SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b ?)?(.*))?")


@dataclass
class Parsed:
    """A test of a KTAP output, and those that are nested in it."""

    ok: bool
    name: str
    directive: str
    said: str
    diagnostics: list[str] = field(default_factory=list)
    tests: list[Parsed] = field(default_factory=list)


def parse(text: str) -> list[Parsed]:
    """Return the tests of an output."""
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    lines = text.splitlines()
    tests, rest = _level(lines, "")
    if rest:
        raise ValueError(f"behind the results: {rest[0]!r}")
    return tests


def _level(lines: list[str], indent: str) -> tuple[list[Parsed], list[str]]:
    """Return the tests of one level of nesting, and the lines behind them."""
    version, *rest = lines
    if version != f"{indent}KTAP version 1":
        raise ValueError(f"no version: {version!r}")
    diagnostics, rest = _diagnostics(rest, indent)
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", rest[0])
    if plan is None:
        raise ValueError(f"no plan: {rest[0]!r}")
    rest = rest[1:]
    tests: list[Parsed] = []
    for number in range(1, int(plan[1]) + 1):
        nested: list[Parsed] = []
        if rest and rest[0].startswith(f"{indent}  KTAP"):
            nested, rest = _level(rest, f"{indent}  ")
        diagnostics, rest = _diagnostics(rest, indent)
        found = _RESULT.fullmatch(rest[0].removeprefix(indent)) if rest and rest[0].startswith(indent) else None
        if found is None or int(found[2]) != number:
            raise ValueError(f"no result {number}: {rest[:1]!r}")
        test = Parsed(found[1] == "ok", found[3] or "", found[4] or "", found[5] or "", diagnostics, nested)
        if test.ok and not test.directive and any(not one.ok for one in nested):
            raise ValueError(f"{test.name} is ok, and a test in it is not")
        tests.append(test)
        rest = rest[1:]
    return tests, rest


def _diagnostics(lines: list[str], indent: str) -> tuple[list[str], list[str]]:
    count = 0
    while count < len(lines) and re.match(rf"{indent}#(?: |$)", lines[count]):
        count += 1
    return [line.removeprefix(f"{indent}#").removeprefix(" ") for line in lines[:count]], lines[count:]
