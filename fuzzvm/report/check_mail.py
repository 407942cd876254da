"""A check as a mail: what was tested, the pairs before and after, the schedule, how to see it again, the limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fuzzvm.report.check_words import BAD, kernel_in_words, look_in_words, verdict_in_words
from fuzzvm.report.mail import columns, compiled_steps, fit, section, wrapped, wrapped_lines

FINDING = """\
The code that was run is the compiler's, and what it calls outside of it (allocation, printing, the slow paths of locks)
is modelled. It was found by exploring schedules, not by a crash. What is left out is listed in fuzzvm's documentation
(limits, compiled)."""
COVERS = """\
"safe" means: every schedule of these calls on these CPUs was explored under that memory model, on the compiled code,
and none uses what has been freed, frees a table that an entry still leads to, loses a table, leaves a lock held, waits
for ever, or reaches a BUG() or a WARN(). TLBs, W+X and lock order are not looked at; allocation does not fail. It says
nothing of other calls, other configurations and more CPUs."""

_COMMIT = re.compile(r"[0-9a-f]{7,40} ")


def check_mail(data: Mapping[str, Any]) -> str:
    """Return the mail of a check's data, as `fuzzvm check --json` prints it."""
    worst = next((pair for pair in data["pairs"] if pair["answer"] in BAD), None)
    fixed = next((pair for pair in data["pairs"] if pair["answer"] == "fixed"), None)
    told, when = (worst, "after") if worst else (fixed, "before")
    run = told[when] if told else None
    parts = ["Subject: " + " ".join(_subject(data, run).split()), wrapped(_summary(data))]
    parts.append(section("What was tested", ["", *_setting(data)]))
    if data["pairs"]:
        rows = [("scenario", "memory", "before", "after", "")]
        rows += [
            (pair["scenario"], pair["memory"], *map(verdict_in_words, (pair["before"], pair["after"])), pair["answer"])
            for pair in data["pairs"]
        ]
        parts.append(section("Before and after", ["", *columns(rows)]))
    if looks := list(_looks(data)):
        parts.append(section("Functions that change", ["", *looks]))
    if told and run and run["story"]:
        parts += _told(told, when, run)
    parts.append(section("Reproduce", ["", *(f"    {line}" for line in command_lines(data["command"]))]))
    parts.append(section("Limits", wrapped_lines(COVERS if run is None or when == "before" else FINDING)))
    return "\n\n".join(parts) + "\n"


def _subject(data: Mapping[str, Any], run: Mapping[str, Any] | None) -> str:
    # "series.mbox (1 of 2): mm: so it is", or of a commit "0123456 mm: so it is"
    name = data["series"][0] if data["series"] else data["tree"]
    title = _COMMIT.sub("", name) if _COMMIT.match(name) else name.partition(": ")[2] or name
    more = f" (and {len(data['series']) - 1} more)" if len(data["series"]) > 1 else ""
    if run is not None and data["answer"] in BAD:
        name = function_of(run["story"]["stack"] if run["story"] else [], run["function"] or "")
        where = f" in {name}()" if name else ""
        return f"[BUG] {run['bug']}{where}: {title}{more}"
    return f"fuzzvm check: {data['answer']}: {title}{more}"


def function_of(stack: Sequence[Mapping[str, Any]], otherwise: str) -> str:
    """Return the function of the tree that a bug is in: not the header's, nor the modelled one, that it calls."""
    return next((str(frame["function"]) for frame in stack if frame["file"].endswith(".c")), otherwise)


def _summary(data: Mapping[str, Any]) -> str:
    said = {
        "broken": "The series breaks code of page tables: no schedule went wrong before it, and one does after it.",
        "still broken": "A schedule goes wrong with the series, and one did before it.",
        "fixed": "The series mends code of page tables: a schedule went wrong before it, and none does after it.",
        "no change": "The series changes no verdict on code of page tables.",
    }.get(data["answer"], f"There is no verdict on the series: {data['answer']}.")
    return f"{said} {data['why'][:1].upper()}{data['why'][1:]}." if data["why"] else said


def _setting(data: Mapping[str, Any]) -> Iterator[str]:
    yield from fit(f"tree: {data['tree']}" + (f", commit {commit}" if (commit := data.get("commit")) else ""))
    for name in data["series"]:
        yield from fit(f"patch: {name}")
    for images, which in ((images, which) for images in data["images"] for which in ("base", "head")):
        if manifest := images[which]:
            yield from fit(f"{which}: {kernel_in_words(manifest)}")
            yield f"  image {manifest['digest'][:40]}"
            yield f"  configuration {manifest['config'][:40]}"


def _looks(data: Mapping[str, Any]) -> Iterator[str]:
    for one in data["functions"]:
        yield from fit(look_in_words(one))
    for name in data.get("flushes", ()):
        yield from fit(f"maintenance of TLBs changes, and is not followed: {name}")
    for name in data["not_looked_at"]:
        yield from fit(f"not looked at: {name}: no image is compiled from it")
    for name, why in data["left_out"].items():
        yield from fit(f"left out: scenario {name}: {why}")


def _told(pair: Mapping[str, Any], when: str, run: Mapping[str, Any]) -> Iterator[str]:
    story = run["story"]
    minimal = "no schedule has fewer" if run["complete"] else "there may be a shorter one"
    where = f"{pair['scenario']}, {pair['memory']} memory, {when} the series"
    yield section(f"Report: {where}", [line for one in story["report"] for line in fit(one)])
    calls = [*(f"boot: {call}" for call in pair["boot"])]
    calls += [f"CPU {cpu}: {call}" for cpu, every in enumerate(pair["cpus"]) for call in every]
    said = f"{run['steps']} steps, {run['context_switches']} context switches; {minimal}."
    yield section(
        "The interleaving",
        [*wrapped_lines(said), "", *(line for call in calls for line in fit(call)), "", *compiled_steps(story)],
    )


def command_lines(command: str) -> Iterator[str]:
    """Yield a command as lines that a shell takes for one."""
    lines = [""]
    for part in command.split(" --"):
        option = part if not lines[0] else f"--{part}"
        if lines[-1] and len(lines[-1]) + len(option) > 60:
            lines.append(f"    {option}")
        else:
            lines[-1] = f"{lines[-1]} {option}".strip() if len(lines) == 1 else f"{lines[-1]} {option}"
    yield from (f"{line} \\" for line in lines[:-1])
    yield lines[-1]
