"""The story of a run as text: a report in the manner of KASAN, then a lane for each CPU."""

from __future__ import annotations

from fuzzvm.machine.schedule import format_schedule
from fuzzvm.mitigations import registry
from fuzzvm.report.story import Story, StoryStep, TableEvent
from fuzzvm.scenario.scenario import Scenario

RULE = "=" * 66
LANE = 46
"""Columns of a lane, the last one excepted, which is as wide as it needs."""


def render(story: Story, replay_command: str) -> str:
    """Return the report, ending with the one command that replays the run."""
    tables = ["Page tables at the end:", *(f"  {line}" for line in story.tables)]
    parts = [_report(story), setting(story), lanes(story), tables, _counts(story), [f"Replay: {replay_command}"]]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def report_text(story: Story) -> str:
    """Return the report alone, what went wrong and who freed the table."""
    return "\n".join(_report(story)) + "\n"


def _report(story: Story) -> list[str]:
    failure = story.failure
    lines = [RULE]
    if failure is None:
        return [*lines, "No error in this run", RULE]
    where = f" in {failure.function}" if failure.function else ""
    lines.append(f"BUG: {failure.error}{where}")
    lines.append(_sentence(failure.message))
    if failure.cpu is not None:
        by = story.cpu_names[failure.cpu]
        if not story.cycle:
            lines += ["", f"At step {failure.step} by {by}:", *_stack(failure.stack)]
    for wait in story.cycle:
        lines += ["", f"{wait.text}:", *_stack(wait.stack)]
    for event in story.events:
        lines += ["", *_event(story, event)]
    return [*lines, RULE]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _event(story: Story, event: TableEvent) -> list[str]:
    what = _sentence(event.what)
    if event.step is None:
        return [what]
    if event.step == 0:
        return [f"{what} at boot"]
    by = "" if event.cpu is None else f" by {story.cpu_names[event.cpu]}"
    return [f"{what} at step {event.step}{by}:", *_stack(event.stack)]


def _stack(stack: tuple[str, ...]) -> list[str]:
    # below the call that the scenario names there is only what makes the call
    return [f" {function}" for function in stack if function not in ("run", "run_calls")]


def setting(story: Story) -> list[str]:
    """Return what ran: architecture, scheme, memory, and the calls of each CPU."""
    case, scenario = story.case, story.case.scenario
    kind = "release" if case.mitigation in registry.releases() else "mitigation"
    lines = [
        (
            f"{scenario.arch}, {scenario.page_size} pages, {scenario.levels} levels of {scenario.fanout} entries"
            f"{_blocks(scenario)}; "
            f"{kind} {case.mitigation}; memory {case.memory}"
        ),
    ]
    if scenario.tlb:
        lines.append("TLBs and walk caches may hold whatever they can")
    if case.without:
        lines.append(f"left out: {', '.join(case.without)}")
    lines += [f"  boot:  {call}" for call in scenario.setup]
    lines += [f"  CPU {cpu}: {call}" for cpu, calls in enumerate(scenario.cpus) for call in calls]
    lines += [
        f"  {name}: CPU {cpu} of the schedule, a thread of the kernel's own"
        for cpu, name in enumerate(story.cpu_names)
        if cpu >= len(scenario.cpus)
    ]
    lines.append(f"{len(story.steps)} steps, {story.switches} context switches: {format_schedule(case.schedule)}")
    if case.origin:
        lines.append(f"Origin: {case.origin}")
    return lines


def _counts(story: Story) -> list[str]:
    """Return what the run executed, and what is mapped at its end; what is nought is left out."""
    counters = story.counters.to_data()
    barriers = [f"{counters[kind]} {kind.upper()}" for kind in ("dsb", "isb", "dmb") if counters[kind]]
    pairs = [f"{count} for a {what} entry" for what, count in counters["barrier_pairs"].items() if count]
    tlbi = [f"{one['count']} {one['operation']} ({one['for']})" for one in counters["tlbi"]]
    tables = [
        f"{count} {level} {what}"
        for what in ("allocated", "freed")
        for level, count in counters[f"tables_{what}"].items()
    ]
    mapped = [
        f"{count} {kind} ({level})" for kind, levels in counters["mappings"].items() for level, count in levels.items()
    ]
    locks = f"{counters['locks']} taken, {counters['locks_contended']} contended; on the free path "
    locks += f"{counters['free_path_locks']} and {counters['free_path_contended']}"
    events = [
        f"{counters[key]} {what}"
        for key, what in (("promotions", "promotions"), ("text_patches", "text patches"), ("ipi", "IPIs"))
        if counters[key]
    ]
    rows = {
        "barriers": ", ".join(barriers) + (f"; DSB ISHST and ISB in a pair: {', '.join(pairs)}" if pairs else ""),
        "TLBI": ", ".join(tlbi),
        "locks": locks,
        "tables": ", ".join(tables),
        "mapped": ", ".join(mapped),
        "also": ", ".join(events),
    }
    lines = ["Executed:", *(f"  {name:9s}{text}" for name, text in rows.items() if text)]
    if story.areas:
        lines.append("Mapped at the end:")
        lines += [
            f"  {start:#x}-{end:#x}: {reach.tlb_entries} TLB entries for {(end - start) >> 10}K"
            for start, end, reach in story.areas
        ]
    return lines


def _blocks(scenario: Scenario) -> str:
    geometry = scenario.geometry()
    blocks = f", contiguous blocks of {geometry.cont_ptes}" if geometry.cont_ptes > 1 else ""
    return blocks + (", lazy MMU mode" if scenario.lazy_mmu else "")


def lanes(story: Story) -> list[str]:
    """Return the steps, one a line, each on the lane of its CPU; a function is named where a CPU enters it."""
    lines = ["step    " + "".join(name.ljust(LANE) for name in story.cpu_names).rstrip()]
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
