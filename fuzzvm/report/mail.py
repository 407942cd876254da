"""A finding or a proof as plain text for a mailing list: 72 columns, complete in itself. Nothing is ever sent."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fuzzvm.files.shell import word
from fuzzvm.report.story import Story
from fuzzvm.report.text import report_text, setting

COLUMNS = 72
NUMBER = 5
"""Columns of a step's number and of the mark of a guilty one."""
GAP = 2

LIMITS = """\
The run is one of fuzzvm's model of these kernel functions, not of a kernel: what the model leaves out is listed in its
documentation (limits). It was found by exploring schedules, not by a crash."""

COVERS = """\
"safe" means: every schedule of these CPUs making these calls was explored under that memory model, and none touches a
page table that has been freed, deadlocks, sleeps in atomic context, takes locks in orders that close a cycle, loses a
mapping or leaks a table. It says nothing of other calls, of more CPUs, or of what the model leaves out (see limits in
fuzzvm's documentation)."""


def finding(story: Story, reproduce: str, case_text: str, litmus: str = "") -> str:
    """Return the mail about a run that goes wrong.

    `reproduce` is the command that finds it again, `case_text` the test case as its file has it, `litmus` the question
    of the run as a litmus test, '' where there is none.
    """
    failure = story.failure
    assert failure is not None
    case, scenario = story.case, story.case.scenario
    where = f" in {failure.function}()" if failure.function else ""
    summary = (
        f"fuzzvm finds a schedule of {len(scenario.cpus)} CPUs in which {story.headline}{where}. It has "
        f"{len(story.steps)} steps and {story.switches} context switches."
    )
    parts = [
        f"Subject: [BUG] {failure.error}{where} ({scenario.arch}, {case.mitigation})",
        wrapped(summary),
        section("What was run", [line for one in setting(story) for line in fit(one)]),
        section("Report", [line for one in report_text(story).splitlines() for line in fit(one)]),
        section(
            "The interleaving",
            [*wrapped_lines("Steps with an asterisk are what the error is made of."), "", *steps(story)],
        ),
        section(
            "Reproduce",
            [
                "",
                f"    {reproduce}",
                "",
                *wrapped_lines("or save the text below as race.toml:"),
                "",
                "    fuzzvm replay race.toml",
            ],
        ),
    ]
    if litmus:
        parts.append(section("The question as a litmus test", ["", *litmus.splitlines()]))
    parts.append(section("Limits", wrapped_lines(LIMITS)))
    # as it is: a file that is wrapped is another file
    parts.append(section("race.toml", ["", *case_text.splitlines()]))
    return "\n\n".join(parts) + "\n"


def proof(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the mail about verdicts, each as `fuzzvm verify --json` has it."""
    safe = sum(run["verdict"] == "safe" and run["complete"] for run in runs)
    rows = [(run["mitigation"], run["scenario"], run["memory"], _verdict(run), str(run["states"])) for run in runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    # what is too wide for a line stands one cell below the other
    if any(len(line) > COLUMNS for line in table):
        table = [line for row in rows for line in (row[0], f"  {row[1]}", f"  {row[2]}  {row[3]}  {row[4]} states")]
    schemes = sorted({word(run["mitigation"]) for run in runs})
    command = "fuzzvm verify " + " ".join(f"-m {scheme}" for scheme in schemes)
    scenarios = sorted({run["scenario"] for run in runs})
    lines = [f"    {command} \\", *[f"        -s {scenario} \\" for scenario in scenarios]]
    lines[-1] = lines[-1].removesuffix(" \\")
    return (
        "\n\n".join(
            [
                f"Subject: fuzzvm: {safe} of {len(runs)} verdicts are safe",
                section("Verdicts", ["", *table]),
                section("What safe covers", wrapped_lines(COVERS)),
                section("Reproduce", ["", *lines]),
            ]
        )
        + "\n"
    )


def _verdict(run: Mapping[str, Any]) -> str:
    if run["verdict"] == "bug":
        return f"bug: {run['bug']}"
    return str(run["verdict"]) if run["complete"] else f"{run['verdict']}, not complete"


class Row(NamedTuple):
    """A step of a listing: `cpu` is the column, `guilty` marks what the error is made of."""

    number: int
    cpu: int
    function: str
    text: str
    guilty: bool = False


def steps(story: Story) -> list[str]:
    """Return the steps of a story as a listing."""
    rows = [Row(one.number, one.cpu, one.stack[0] if one.stack else "", one.text, one.guilty) for one in story.steps]
    return listing(story.cpu_names, rows)


def compiled_steps(story: Mapping[str, Any]) -> list[str]:
    """Return the steps of a story of compiled code, as plain data, as a listing."""
    names = [f"CPU {cpu}" for cpu in range(story["cpus"])]
    # what memory does by itself stands in the first column, and says so
    rows = [
        Row(step["number"], step["cpu"], step["function"], step["text"])
        if step["cpu"] < len(names)
        else Row(step["number"], 0, "", f"memory: {step['text']}")
        for step in story["steps"]
    ]
    return listing(names, rows)


def listing(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return steps, two CPUs side by side; more than two one below the other."""
    lanes = len(names)
    side_by_side = lanes <= 2
    width = (COLUMNS - NUMBER - GAP * (lanes - 1)) // lanes if side_by_side else COLUMNS - NUMBER
    offset = width + GAP if side_by_side else 0
    lines = [" " * NUMBER + "".join(name.ljust(offset) for name in names).rstrip()] if side_by_side else []
    before: tuple[int, str] | None = None
    for row in rows:
        indent = " " * (offset * row.cpu)
        if row.function and before != (row.cpu, row.function):
            name = f"{row.function}()" if side_by_side else f"{names[row.cpu]}: {row.function}()"
            lines.append(" " * NUMBER + indent + name[:width])
        before = (row.cpu, row.function)
        first, *more = textwrap.wrap(row.text, width - 2, break_long_words=True) or [""]
        number = f"{row.number:3d}{'*' if row.guilty else ' '} "
        lines.append(f"{number}{indent}  {first}")
        lines += [" " * NUMBER + indent + "    " + line for text in more for line in textwrap.wrap(text, width - 4)]
    return lines


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table; where a line would be too wide, the cells of a row stand one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if all(len(line) <= COLUMNS for line in table):
        return table
    return [line for row in rows for number, cell in enumerate(row) for line in fit("  " * bool(number) + cell)]


def section(title: str, lines: Sequence[str]) -> str:
    """Return a part of a mail under its title."""
    return "\n".join([title, "-" * len(title), *lines])


def wrapped(text: str) -> str:
    """Return a paragraph in lines of 72 columns."""
    return "\n".join(wrapped_lines(text))


def wrapped_lines(text: str) -> list[str]:
    """Return a paragraph as lines of 72 columns; what has no blank is not broken, so that addresses stay whole."""
    return textwrap.wrap(" ".join(text.split()), COLUMNS, break_long_words=False, break_on_hyphens=False)


def fit(line: str) -> Iterator[str]:
    """Yield a line as lines of 72 columns, those that follow further in; a rule is cut."""
    if set(line) == {"="}:
        yield line[:COLUMNS]
        return
    indent = len(line) - len(line.lstrip())
    yield from textwrap.wrap(
        line.strip(),
        COLUMNS,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]
