"""`fuzzvm image compare`: what came of comparing an image with the model, as text and as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fuzzvm.cli.common import print_json, progress_console, scenarios
from fuzzvm.cli.output import print_table, say
from fuzzvm.compare.compare import OWN, Call, Comparison, MetDifference, compare, why_left_out
from fuzzvm.compare.operations import Visible
from fuzzvm.compiled.image import Image, load
from fuzzvm.scenario.scenario import Scenario

BEYOND = (
    "other schedules than these orders of CPUs; what branches not taken here do",
    "values beyond none, table and leaf; reads and writes of what only one side has, counted above",
    "the slow paths of locks, and what functions that are stood for do inside (fuzzvm/compiled/run/boundary.py)",
)


def compare_image(folder: Path, release: str, names: tuple[str, ...], *, rows: bool, as_json: bool) -> int:
    """Compare an image with a release and print what came of it; return the exit status.

    Raises UsageError for a scenario that cannot be compared, and what `compare` raises.
    """
    image = load(folder)
    chosen = to_compare(image, names)
    with progress_console().status("") as status:
        comparison = compare(image, release, chosen, lambda name: status.update(f"comparing {name}"))
    if as_json:
        print_json(comparison_to_data(comparison, image))
    else:
        print_comparison(comparison, image, rows=rows)
    return 1 if comparison.drift else 0


def to_compare(image: Image, names: tuple[str, ...]) -> tuple[Scenario, ...]:
    """Return the scenarios of these names or files; all where none is given. Raises UsageError for one that cannot."""
    own = {one.name: one for one in OWN}
    if not names:
        return (*OWN, *scenarios(()))
    others = tuple(name for name in names if name not in own)
    chosen = (*(own[name] for name in names if name in own), *(scenarios(others) if others else ()))
    for scenario in chosen:
        if why := why_left_out(image, scenario):
            raise click.UsageError(f"scenario {scenario.name}: {why}")
    return chosen


def print_comparison(comparison: Comparison, image: Image, *, rows: bool) -> None:
    """Print what differs, then what was compared and what was not; with `rows` each call side by side."""
    manifest = image.manifest
    options = ", ".join(("walk_rereads", *(("lazy_mmu",) if comparison.lazy_mmu else ())))
    say(
        f"image: Linux {manifest.kernel}, {manifest.arch}, {manifest.page_size} pages, {manifest.levels} levels, "
        f"{manifest.atomics}; {manifest.compiler}; {manifest.digest[:12]}",
        f"model: {comparison.release} with {options}",
    )
    same = sum(comparison.functions.values())
    say(
        f"{len(comparison.scenarios)} scenarios, {len(comparison.calls)} calls that differ from one another, "
        f"{same} operations alike"
    )
    if rows:
        for call in comparison.calls:
            _print_rows(call)
    drift = [one for one in comparison.found if one.drift]
    say("", f"drift: {len(drift) + len(comparison.failed) or 'none'}")
    for failed in comparison.failed:
        say(f"  {failed.scenario}, {failed.order}:")
        say(f"    image   {_ending(failed.compiled)}", f"    model   {_ending(failed.model)}")
    for one in drift:
        _print_found(one)
    harmless = [one for one in comparison.found if not one.drift]
    say("", f"harmless: {len(harmless) or 'none'}")
    for reason in dict.fromkeys(one.reason for one in harmless):
        assert reason is not None
        say(f"  {reason.name}: {reason.why} ({reason.source})")
        for one in harmless:
            if one.reason is reason:
                operation = one.difference.one
                where = f"{one.difference.function}{_via(operation)}"
                say(f"    {one.difference.what}: {operation} in {where}, {_times(one.times)}")
    _print_scope(comparison)


def _print_found(found: MetDifference) -> None:
    difference = found.difference
    say(f"  {difference.what}: {difference.one} in {difference.function}, {_times(found.times)}")
    for side, operation in (("image", difference.compiled), ("model", difference.model)):
        if operation is not None:
            calls = " < ".join(map(str, operation.stack[:4]))
            say(f"    {side}   {operation}: {calls}")
    call = found.call
    say(f"    first in {call.scenario}, CPU {call.cpu}, {call.text}, in the order {call.order}")


def _via(operation: Visible) -> str:
    inner = operation.inner()
    return f" ({inner[-1]})" if inner else ""


def _times(times: int) -> str:
    return "once" if times == 1 else f"{times} times"


def _ending(failure: Any) -> str:
    return "comes to its end" if failure is None else f"{failure.error} in {failure.function}: {failure.message}"


def _print_rows(call: Call) -> None:
    say("", f"{call.scenario}, CPU {call.cpu}, {call.text}, in the order {call.order}")
    print_table(
        ("image", "in", "model", "in"),
        [(*_cells(row.compiled), *_cells(row.model)) for row in call.rows],
    )


def _cells(one: Visible | None) -> tuple[str, str]:
    if one is None:
        return "", ""
    innermost = one.stack[0]
    return str(one), f"{one.function} {innermost.file.rpartition('/')[2]}:{innermost.line}".removesuffix(" :0")


def _print_scope(comparison: Comparison) -> None:
    say("", "compared, by modelled function: operations that both have")
    words = [f"{name} {times}" for name, times in sorted(comparison.functions.items())]
    say(f"  {', '.join(words) or 'none'}")
    for name, side in comparison.one_sided.items():
        say(f"  {name}: only the {side} has operations in it that are its own")
    say("", "not compared")
    say(f"  modelled functions of another architecture: {comparison.elsewhere}")
    if comparison.not_met:
        say(f"  modelled functions without an operation of their own here: {_named(comparison)}")
    for scenario, why in comparison.left_out.items():
        say(f"  scenario {scenario}: {why}")
    for name, times in comparison.not_compared.items():
        say(f"  {name}: {_times(times)}")
    alike = sum(call.alike for call in comparison.calls)
    say(f"  entries that only the image's tables have and that are treated as others are: {alike}")
    for call in comparison.calls:
        for one in call.only_images:
            what = ", ".join(one.operations)
            say(f"  {one.entries} entries of {one.level} that only the image has, in {one.function}: {what}")
    for text in BEYOND:
        say(f"  {text}")


def _named(comparison: Comparison) -> str:
    return ", ".join(one.name for one in comparison.not_met)


def comparison_to_data(comparison: Comparison, image: Image) -> dict[str, Any]:
    """Return it as plain data."""
    return {
        "image": image.manifest.digest,
        "kernel": image.manifest.kernel,
        "release": comparison.release,
        "lazy_mmu": comparison.lazy_mmu,
        "drift": comparison.drift,
        "scenarios": comparison.scenarios,
        "differences": [_found_to_data(one) for one in comparison.found],
        "failed": [
            {
                "scenario": one.scenario,
                "order": one.order,
                "image": one.compiled.error if one.compiled else None,
                "model": one.model.error if one.model else None,
            }
            for one in comparison.failed
        ],
        "calls": [_call_to_data(call) for call in comparison.calls],
        "functions": comparison.functions,
        "one_sided": comparison.one_sided,
        "not_compared": {
            "functions": [{"name": one.name, "file": one.file} for one in comparison.not_met],
            "functions_elsewhere": comparison.elsewhere,
            "scenarios": comparison.left_out,
            "accesses": comparison.not_compared,
            "beyond": list(BEYOND),
        },
    }


def _found_to_data(found: MetDifference) -> dict[str, Any]:
    difference = found.difference
    return {
        "what": difference.what,
        "function": difference.function,
        "operation": list(difference.operation),
        "inner": list(difference.inner),
        "class": "drift" if found.reason is None else "harmless",
        "reason": found.reason.name if found.reason else None,
        "times": found.times,
        "scenario": found.call.scenario,
        "call": found.call.text,
        "image": _operation_to_data(difference.compiled),
        "model": _operation_to_data(difference.model),
    }


def _call_to_data(call: Call) -> dict[str, Any]:
    return {
        "scenario": call.scenario,
        "order": call.order,
        "cpu": call.cpu,
        "call": call.text,
        "rows": [[_operation_to_data(row.compiled), _operation_to_data(row.model)] for row in call.rows],
        "entries_alike": call.alike,
        "entries_not_compared": [
            {"level": one.level, "function": one.function, "operations": list(one.operations), "entries": one.entries}
            for one in call.only_images
        ],
    }


def _operation_to_data(one: Visible | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "operation": str(one),
        "function": one.function,
        "stack": [{"function": place.function, "file": place.file, "line": place.line} for place in one.stack],
    }
