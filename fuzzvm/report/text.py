"""The story of a run as text: a report in the manner of KASAN, then a lane for each CPU."""

from __future__ import annotations

from fuzzvm.machine.schedule import format_schedule
from fuzzvm.report.story import Story, StoryStep, TableEvent

RULE = "=" * 66
LANE = 46
"""Columns of a lane, the last one excepted, which is as wide as it needs."""


def render(story: Story, replay_command: str) -> str:
    """Return the report, ending with the one command that replays the run."""
    return "\n".join([*_report(story), "", *_setting(story), "", *lanes(story), "", f"Replay: {replay_command}", ""])


def _report(story: Story) -> list[str]:
    failure = story.failure
    lines = [RULE]
    if failure is None:
        return [*lines, "No error in this run", RULE]
    where = f" in {failure.function}" if failure.function else ""
    lines.append(f"BUG: {failure.error}{where}")
    lines.append(_sentence(failure.message))
    if failure.cpu is not None:
        lines += ["", f"At step {failure.step} by CPU {failure.cpu}:", *_stack(failure.stack)]
    for event in story.events:
        lines += ["", *_event(event)]
    return [*lines, RULE]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _event(event: TableEvent) -> list[str]:
    what = _sentence(event.what)
    if event.step is None:
        return [what]
    if event.step == 0:
        return [f"{what} at boot"]
    return [f"{what} at step {event.step} by CPU {event.cpu}:", *_stack(event.stack)]


def _stack(stack: tuple[str, ...]) -> list[str]:
    # below the call that the scenario names there is only what makes the call
    return [f" {function}" for function in stack if function not in ("run", "run_calls")]


def _setting(story: Story) -> list[str]:
    case, scenario = story.case, story.case.scenario
    lines = [
        (
            f"{scenario.arch}, {scenario.page_size} pages, {scenario.levels} levels of {scenario.fanout} entries; "
            f"mitigation {case.mitigation}; memory {case.memory}"
        ),
    ]
    if scenario.tlb:
        lines.append("TLBs and walk caches may hold whatever they can")
    if case.without:
        lines.append(f"left out: {', '.join(case.without)}")
    lines += [f"  boot:  {call}" for call in scenario.setup]
    lines += [f"  CPU {cpu}: {call}" for cpu, calls in enumerate(scenario.cpus) for call in calls]
    lines.append(f"{len(story.steps)} steps, {story.switches} context switches: {format_schedule(case.schedule)}")
    if case.origin:
        lines.append(f"Origin: {case.origin}")
    return lines


def lanes(story: Story) -> list[str]:
    """Return the steps, one a line, each on the lane of its CPU; a function is named where a CPU enters it."""
    cpus = len(story.case.scenario.cpus)
    lines = ["step    " + "".join(f"CPU {cpu}".ljust(LANE) for cpu in range(cpus)).rstrip()]
    functions: dict[int, str] = {}
    previous = None
    for step in story.steps:
        function = step.stack[0] if step.stack else ""
        if function and (functions.get(step.cpu) != function or previous != step.cpu):
            lines.append(" " * 8 + " " * (LANE * step.cpu) + f"{function}()")
        functions[step.cpu] = function
        previous = step.cpu
        lines.append(_line(step))
        for output in step.output:
            lines += _output(step, output.file, output.text)
    return lines


def _line(step: StoryStep) -> str:
    mark = "*" if step.guilty else " "
    return f"{step.number:5d} {mark} " + " " * (LANE * step.cpu) + f"  {step.text}"


def _output(step: StoryStep, file: str, text: str) -> list[str]:
    indent = " " * 8 + " " * (LANE * step.cpu)
    return [f"{indent}{file}:", *(f"{indent}  | {line}" for line in text.splitlines())]
