"""What a search has come to, as a table and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuzzvm.campaigns.plain import FuzzCell, FuzzCellResult
from fuzzvm.cli.happened import not_met
from fuzzvm.cli.output import print_table, say
from fuzzvm.corpus.command import command, image_command
from fuzzvm.machine.schedule import context_switches


def explaining(cell: FuzzCell, file: Path) -> str:
    """Return the command that explains a finding of a cell."""
    code = cell.targets[0].code
    return (
        command("explain", file, cell.name) if isinstance(code, type) else image_command("explain", file, code.folder)
    )


def print_results(results: list[FuzzCellResult]) -> None:
    print_table(
        ("mitigation", "engine", "runs", "runs/s", "first bug at run", "verdict", "as claimed"),
        [
            (
                result.cell.name,
                result.cell.engine.name,
                str(result.search.runs),
                f"{result.search.runs / max(result.seconds, 1e-9):.0f}",
                str(result.runs_to_first_bug or "-"),
                "none found" if result.verdict == "safe" else result.verdict,
                {True: "yes", False: "NO", None: "-"}[result.as_expected],
            )
            for result in results
        ],
    )
    for result in results:
        for finding in result.findings:
            case = finding.case
            say(
                "",
                f"{result.cell.name}, {result.cell.engine.name}: {case.expect} "
                f"({context_switches(case.schedule)} context switches, {len(case.schedule)} steps, "
                f"{finding.how}; found in {finding.scenario})",
            )
            if finding.path is not None:
                how = "saved" if finding.new else "known"
                say(f"  {how}: {explaining(result.cell, finding.path)}")
        if result.search.pairs and not result.findings:
            seen = seen_in_words(result.search.pairs, result.search.undiscovered)
            say("", f"{result.cell.name}, {result.cell.engine.name}: {seen}")
        for scenario, one in result.happened:
            if result.verdict == "vacuous" and one.vacuous:
                never = not_met(one.missing, f"none of the {one.runs} runs")
                say("", f"{result.cell.name}, {result.cell.engine.name}, {scenario}: vacuous: {never}")
    if any(result.interrupted for result in results):
        say("", "ended by Ctrl-C before the budget was used up", err=True)


def seen_in_words(pairs: int, undiscovered: float) -> str:
    """Say what share of the interleavings was seen, of pairs and of an estimate of how many others there are."""
    return (
        f"{pairs} ordered pairs of conflicting operations seen, and an estimated {undiscovered:.0f} more were not seen"
    )


def results_to_data(results: list[FuzzCellResult]) -> dict[str, Any]:
    findings = [finding for result in results for finding in result.findings]
    verdicts = [result.verdict for result in results]
    first = [result.runs_to_first_bug for result in results if result.runs_to_first_bug is not None]
    return {
        "verdict": next((verdict for verdict in ("bug", "vacuous") if verdict in verdicts), "safe"),
        "bug": findings[0].case.expect.error if findings else None,
        "runs": sum(result.search.runs for result in results),
        "steps": sum(result.search.steps for result in results),
        "seconds": round(sum(result.seconds for result in results), 3),
        "runs_to_first_bug": first[0] if first else None,
        "saved": [str(finding.path) for finding in findings if finding.path is not None],
        "interrupted": any(result.interrupted for result in results),
        "searches": [
            {
                "mitigation": result.cell.name,
                "engine": result.cell.engine.name,
                "verdict": result.verdict,
                "expected": result.cell.expected,
                "as_expected": result.as_expected,
                "runs": result.search.runs,
                "steps": result.search.steps,
                "seconds": round(result.seconds, 3),
                "runs_to_first_bug": result.runs_to_first_bug,
                "pairs": result.search.pairs,
                "pairs_undiscovered": round(result.search.undiscovered, 1),
                "happened": {scenario: {"runs": one.runs, "first_run": one.first} for scenario, one in result.happened},
                "findings": [
                    {
                        "bug": finding.case.expect.error,
                        "function": finding.case.expect.function,
                        "scenario": finding.scenario,
                        "message": finding.message,
                        "proven_minimal": finding.settled.minimised.proven,
                        "unchecked": finding.settled.unchecked or None,
                        "context_switches": context_switches(finding.case.schedule),
                        "steps": len(finding.case.schedule),
                        "saved": None if finding.path is None else str(finding.path),
                    }
                    for finding in result.findings
                ],
            }
            for result in results
        ],
    }
