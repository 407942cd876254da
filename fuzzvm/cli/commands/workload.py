"""`fuzzvm workload NAME`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from fuzzvm.cli.common import (
    json_option,
    mitigation_options,
    mitigations,
    print_json,
    progress_console,
)
from fuzzvm.cli.output import print_table, say
from fuzzvm.files.printable import printable
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.machine import memory as memory_models
from fuzzvm.workload.cost import Weights
from fuzzvm.workload.parameters import Parameters
from fuzzvm.workload.runner import Result, run
from fuzzvm.workload.selftest import TESTS, of_mask

NAMES = ("test_vmalloc",)
READERS = (0, 2)
"""How many readers there are where nobody says: nobody dumps, and somebody does."""
DEFAULTS = Parameters()


@dataclass(frozen=True)
class _Run:
    """One run and how it is judged. `expected` is what the mitigation claims for that many readers."""

    result: Result
    expected: Verdict | None
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether nothing went wrong that the mitigation does not admit. That nothing did proves nothing."""
        return self.result.failure is None or self.expected == "bug"


@click.command(epilog="Exit status: 0 no bug, or only bugs that the mitigation admits to; 1 a bug; 2 usage.")
@click.argument("name", type=click.Choice(NAMES))
@click.option(
    "--nr-pages", type=int, metavar="N", help="Pages of an area of fix_size_alloc_test. Default: a PMD block."
)
@click.option("--use-huge", type=click.Choice(["0", "1"]), default="1", help="fix_size_alloc_test uses vmalloc_huge.")
@click.option("--test-repeat-count", type=int, default=DEFAULTS.test_repeat_count, help="How often each test runs.")
@click.option("--test-loop-count", type=int, default=DEFAULTS.test_loop_count, help="Loops of a test.")
@click.option(
    "--run-test-mask",
    type=int,
    default=DEFAULTS.run_test_mask,
    help="Tests to run, a bit each: " + ", ".join(f"{1 << n} {test}" for n, test in enumerate(TESTS) if TESTS[test]),
)
@click.option("--nr-threads", type=int, default=DEFAULTS.nr_threads, help="CPUs that run the tests.")
@click.option("--sequential-test-order", is_flag=True, help="Run the tests in the order of their bits.")
@click.option(
    "--list-length", type=int, default=DEFAULTS.list_length, help="Areas that tests 2 and 4 keep, of thousands."
)
@click.option("--lazy-max-pages", type=int, metavar="N", help="Pages freed before a purge. Default: lazy_max_pages().")
@click.option("--fresh", is_flag=True, help="Begin with no page tables. Default: with the tables of earlier mappings.")
@click.option("--arch", type=click.Choice(architectures.names()), default=DEFAULTS.arch)
@click.option("--page-size", default=DEFAULTS.page_size, metavar="SIZE", help="4K, 16K or 64K on arm64.")
@click.option("--levels", type=int, metavar="N", help="Levels of page tables. Default: the most below five.")
@click.option("--fanout", type=int, metavar="N", help="Entries of a table. Default: what a page holds.")
@click.option("--cont-ptes", type=int, default=0, metavar="N", help="Entries of a contiguous block; 1 for none.")
@click.option("--lazy-mmu", is_flag=True, help="Set PTEs in lazy MMU mode: barriers once a range.")
@click.option(
    "--readers",
    "readers",
    type=int,
    multiple=True,
    metavar="N",
    help="CPUs that dump as long as the tests run, reading kernel_page_tables and check_wx_pages in turn; may be given "
    f"more than once. Default: {' and '.join(map(str, READERS))}.",
)
@mitigation_options
@click.option("--memory", type=click.Choice(memory_models.names()), default="sc", help="Memory model. Default: sc.")
@click.option("--seed", type=int, default=0, help="Seed of the schedule and of the tests' random numbers.")
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="NAME=NS",
    help=f"Nanoseconds of one operation in the cost model: {', '.join(Weights().to_data())}.",
)
@json_option
def workload(
    name: str,
    use_huge: str,
    fresh: bool,
    readers: tuple[int, ...],
    mitigation_names: tuple[str, ...],
    memory: str,
    weights: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> int:
    """Run a workload on the real fan-out, with dumps beside it, and count what it costs under each mitigation.

    test_vmalloc is the loop of lib/test_vmalloc.c. Counts are of the CPUs that run the tests; times are those of the
    cost model (docs/cost-model.md).
    """
    parameters = Parameters(use_huge=use_huge == "1", used=not fresh, **options)
    tests, skipped = of_mask(parameters.run_test_mask)
    if not tests:
        names = ", ".join(skipped) or "no test"
        raise click.UsageError(
            f"--run-test-mask {parameters.run_test_mask} names {names}, of which nothing is modelled"
        )
    its_weights = _weights(weights)
    chosen = [
        (its_name, mitigation, count)
        for its_name, mitigation in mitigations(mitigation_names)
        for count in readers or READERS
    ]
    for count in {count for _, _, count in chosen}:
        parameters.scenario(count)
    runs, interrupted = _run_all(parameters, chosen, memory, its_weights)
    if as_json:
        print_json(_to_json(name, parameters, tests, skipped, its_weights, runs) | {"interrupted": interrupted})
    else:
        _print(name, parameters, tests, skipped, runs)
    if interrupted:
        say("fuzzvm: interrupted", err=True)
        return 130
    return 0 if all(one.as_expected for one in runs) else 1


def _weights(given: Sequence[str]) -> Weights:
    changes = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            changes[name] = float(value)
        except ValueError as error:
            raise click.UsageError(f"--weight {text!r} is not NAME=NANOSECONDS") from error
    try:
        return Weights().changed(changes)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _run_all(
    parameters: Parameters, chosen: Sequence[tuple[str, type[Mitigation], int]], memory: str, weights: Weights
) -> tuple[list[_Run], bool]:
    """Return the runs in their order, and whether Ctrl-C ended them early."""
    runs: list[_Run] = []
    columns = [TextColumn("{task.description}", markup=False), TimeElapsedColumn()]
    with Progress(*columns, console=progress_console(), transient=True) as bar:
        task = bar.add_task("", total=None)
        try:
            for number, (name, mitigation, readers) in enumerate(chosen, 1):
                where = f"{number}/{len(chosen)} {name}, {readers} readers"

                def show(steps: int, areas: int, where: str = where) -> None:
                    bar.update(task, description=printable(f"{where}: {areas} areas, {steps} steps"))

                started = time.perf_counter()
                result = run(
                    parameters,
                    mitigation,
                    readers,
                    memory=memory,
                    weights=weights,
                    mitigation_name=name,
                    progress=show,
                )
                expected = "safe" if not readers else mitigation.one_walker if readers == 1 else mitigation.two_walkers
                runs.append(_Run(result, expected, time.perf_counter() - started))
        except KeyboardInterrupt:
            return runs, True
    return runs, False


def _share(result: Result, kind: str) -> float:
    return result.reach.of(kind) / result.reach.mapped if result.reach.mapped else 0.0


def _each(result: Result, amount: float) -> float:
    return amount / result.areas if result.areas else 0.0


def _to_json(
    name: str, parameters: Parameters, tests: list[str], skipped: list[str], weights: Weights, runs: Sequence[_Run]
) -> dict[str, Any]:
    scenario = parameters.scenario(0)
    geometry = scenario.geometry()
    return {
        "workload": name,
        "parameters": {
            key: getattr(parameters, key) for key in Parameters.__dataclass_fields__ if key not in ("levels", "fanout")
        },
        "arch": scenario.arch,
        "page_size": scenario.page_size,
        "levels": scenario.levels,
        "fanout": scenario.fanout,
        "cont_ptes": geometry.cont_ptes,
        "tests": tests,
        "not_modelled": skipped,
        "weights_ns": weights.to_data(),
        "runs": [_run_to_json(one) for one in runs],
    }


def _run_to_json(one: _Run) -> dict[str, Any]:
    result = one.result
    failure = result.failure
    each = {
        "pages": _each(result, result.pages),
        "barrier_pairs": _each(result, result.workload.barrier_pairs["leaf"]),
        "tlb_entries": _each(result, result.reach.tlb_entries),
        "ns": round(_each(result, result.time), 3),
    }
    return {
        "mitigation": result.mitigation,
        "readers": result.readers_started,
        "memory": result.memory,
        "verdict": "none found" if failure is None else "bug",
        "expected": one.expected,
        "as_expected": one.as_expected,
        "bug": None if failure is None else failure.error,
        "function": None if failure is None else failure.function,
        "message": None if failure is None else failure.message,
        "passed": result.passed,
        "failed": result.failed,
        "areas": result.areas,
        "pages": result.pages,
        "per_area": {key: int(value) if value == int(value) else value for key, value in each.items()},
        "share": {kind: round(_share(result, kind), 6) for kind in ("block", "contiguous", "page")},
        "mapped": result.reach.to_data(),
        "blocks": {"possible": result.blocks_possible, "made": result.blocks_made, "lost": result.blocks_lost},
        "promotions": result.workload.promotions,
        "free_path": {
            "locks": result.workload.free_path_locks,
            "contended": result.workload.free_path_contended,
            "ns": round(result.free_path_lock, 3),
        },
        "cost_ns": {
            "total": round(result.time, 3),
            "waited": round(result.waited, 3),
            "by_operation": {kind: round(result.busy[kind], 3) for kind in sorted(result.busy)},
        },
        "walks": result.readers.walks,
        "counters": {
            "workload": result.workload.to_data(),
            "readers": result.readers.to_data(),
            "kernel_threads": result.kernel_threads.to_data(),
        },
        "steps": result.steps,
        "seconds": round(one.seconds, 4),
    }


def _print(name: str, parameters: Parameters, tests: list[str], skipped: list[str], runs: Sequence[_Run]) -> None:
    scenario = parameters.scenario(0)
    geometry = scenario.geometry()
    blocks = f", contiguous blocks of {geometry.cont_ptes}" if geometry.cont_ptes > 1 else ""
    say(
        f"{name}: {', '.join(tests)} on {scenario.arch}, {scenario.page_size} pages, "
        f"{scenario.levels} levels of {scenario.fanout} entries{blocks}"
    )
    if skipped:
        say(f"not modelled: {', '.join(skipped)}")
    print_table(
        (
            "mitigation",
            "readers",
            "verdict",
            "areas",
            "promotions",
            "locks",
            "contended",
            "block",
            "contiguous",
            "page",
            "blocks lost",
            "pairs/area",
            "TLB/area",
            "us/area",
            "lock us/area",
            "dumps",
        ),
        [_row(one.result) for one in runs],
    )
    for one in runs:
        failure = one.result.failure
        if failure is not None:
            where = f"{one.result.mitigation}, {one.result.readers_started} readers"
            function = f" in {failure.function}" if failure.function else ""
            say("", f"{where}: {failure.error}{function} at step {failure.step}: {failure.message}")


def _row(result: Result) -> tuple[str, ...]:
    counters = result.workload
    return (
        result.mitigation,
        str(result.readers_started),
        "none found" if result.failure is None else f"bug: {result.failure.error}",
        str(result.areas),
        str(counters.promotions),
        str(counters.free_path_locks),
        str(counters.free_path_contended),
        *(f"{_share(result, kind):.0%}" for kind in ("block", "contiguous", "page")),
        f"{result.blocks_lost} of {result.blocks_possible}",
        f"{_each(result, counters.barrier_pairs['leaf']):.1f}",
        f"{_each(result, result.reach.tlb_entries):.1f}",
        f"{_each(result, result.time) / 1000:.2f}",
        f"{_each(result, result.free_path_lock) / 1000:.2f}",
        str(result.readers.walks),
    )
