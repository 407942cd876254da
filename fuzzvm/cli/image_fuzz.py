"""`fuzzvm fuzz --image`: what is searched, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from fuzzvm.campaigns.plain import FuzzCell
from fuzzvm.cli.code import runnable_scenarios
from fuzzvm.images.given import image_code
from fuzzvm.runs import engines
from fuzzvm.runs.engines.strategy_loop import StrategyEngine
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import default_memory
from fuzzvm.scenario.target import Target

WITH_IMAGE = (
    *("image", "scenario_names", "memory", "engine_names", "seconds", "runs", "seed", "corpus", "keep_going"),
    "tlb",
    "as_json",
)


def image_cells(
    folder: Path,
    given: Sequence[Scenario],
    memory: str | None,
    engine_names: Sequence[str],
    *,
    by_name: bool,
    tlb: bool,
) -> list[FuzzCell]:
    """Return what is searched: the scenarios that the image can run, under each engine.

    Raises UsageError for an engine that needs the kernel model, and for a scenario that was named and cannot be run;
    ImageError.
    """
    # imported here: ELF, DWARF and disassembly are needed for nothing else
    from fuzzvm.images.code import ImageCode

    chosen = [engines.get(name) for name in dict.fromkeys(engine_names)]
    for engine in chosen:
        if not isinstance(engine, StrategyEngine):
            raise click.UsageError(f"engine {engine.name} is not there for images")
    code = image_code(folder)
    assert isinstance(code, ImageCode)
    can, _ = runnable_scenarios(code.image, given, by_name=by_name, tlb=tlb)
    targets = tuple(Target(code, one, memory or default_memory(one)) for one in can)
    return [FuzzCell(f"image {code.digest[:12]}", engine, targets) for engine in chosen]
