"""`fuzzvm bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fuzzvm.bench import first_bug, plots, suite
from fuzzvm.bench.records import RecordsError
from fuzzvm.bench.result import Result, Row
from fuzzvm.cli.common import json_option, print_json, progress_console
from fuzzvm.cli.output import print_table, say
from fuzzvm.files.writing import write


@click.command()
@click.option(
    "--only", "names", multiple=True, type=click.Choice(list(suite.MODULES)), help="Benchmark; may be given again."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for results.json and the plots.",
)
@click.option("--quick", is_flag=True, help="Small sizes and few repeats: shows that all works, and measures little.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Seeds of each engine in first-bug; slow engines get a part of them.",
)
@click.option(
    "--bug", "bugs", multiple=True, metavar="NAME", help="Bug of first-bug; may be given again. Default: all."
)
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Processes of first-bug. Default: one a core.")
@json_option
def bench(
    names: tuple[str, ...],
    out: Path | None,
    quick: bool,
    seeds: int,
    bugs: tuple[str, ...],
    jobs: int | None,
    as_json: bool,
) -> int:
    """Measure fuzzvm beside its peers, as ratios, side by side in one run.

    A peer that is not installed is named as not measured. Exit status 0 whatever the figures are: a busy machine must
    not fail a script. With --out, first-bug keeps each result in DIR/first-bug.jsonl as it comes, and takes those that
    are there; Ctrl-C ends it, and the figures of what was measured are printed and kept.

    \b
    fuzzvm bench --quick
    fuzzvm bench --only spin --only stepping --out results/
    """
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--out {out}: {error.strerror}") from error
    for bug in bugs:
        if bug not in first_bug.names():
            raise click.UsageError(f"--bug {bug}: there is no such bug; there are {', '.join(first_bug.names())}")
    environment = suite.environment()
    results: dict[str, Result] = {}
    with progress_console().status("") as status:
        for name in dict.fromkeys(names) if names else suite.MODULES:
            more: dict[str, Any] = {}
            if name == "first-bug":
                records = None if out is None else out / f"{name}.jsonl"
                more = {"seeds": seeds, "jobs": jobs, "records": records, "bugs": tuple(dict.fromkeys(bugs))}
            try:
                results[name] = suite.get(name).run(quick=quick, note=status.update, **more)
            except RecordsError as error:
                raise click.UsageError(str(error)) from error
            if out is not None:
                # what was measured is kept, whatever becomes of the rest
                _save(out, {"environment": environment, "quick": quick, "benchmarks": _data(results)})
            if results[name].interrupted:
                break
    drawn, without_plots = _draw(results, out)
    data = {
        "environment": environment,
        "quick": quick,
        "benchmarks": _data(results),
        "plots": drawn,
        "plots_left_out": without_plots,
    }
    if out is not None:
        _save(out, data)
    if as_json:
        print_json(data)
    else:
        _print(results, drawn, without_plots)
    return 130 if any(result.interrupted for result in results.values()) else 0


def _data(results: dict[str, Result]) -> dict[str, Any]:
    return {name: result.to_data() for name, result in results.items()}


def _save(out: Path, data: dict[str, Any]) -> None:
    write(out / "results.json", json.dumps(data, indent=2) + "\n")


def _draw(results: dict[str, Result], out: Path | None) -> tuple[list[str], str | None]:
    """Return the plots that were drawn, and why there are none."""
    if out is None:
        return [], None
    if lacks := plots.missing():
        return [], lacks
    return [str(path) for path in plots.draw(results, out)], None


def _print(results: dict[str, Result], drawn: list[str], without_plots: str | None) -> None:
    for name, result in results.items():
        say("", f"{name}: {suite.get(name).SUMMARY}")
        if result.rows:
            rows = [_flat(row) for row in result.rows]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            print_table(columns, [[_text(row.get(column)) for column in columns] for row in rows])
        for target in result.targets:
            wanted = f"{'at least' if target.at_least else 'at most'} {_text(target.wanted)}"
            say(f"  {'met   ' if target.met else 'MISSED'} {target.what}: {_text(target.ratio)} ({wanted})")
        for text in result.not_measured:
            say(f"  not measured: {text}")
    for path in drawn:
        say(f"plot: {path}")
    if without_plots is not None:
        say(f"plots left out: {without_plots}")


def _flat(row: Row) -> Row:
    """Return a row with the figures of each mode in rows of their own name."""
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}:{inner}": figure for inner, figure in value.items() if "ratio" in inner}
        else:
            flat[key] = value
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
    return str(value)
