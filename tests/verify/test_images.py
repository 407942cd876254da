"""What must happen in scenarios whose calls are functions of an image by name, so that `safe` is about something."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.run.boundary import on_each_cpu, pgprot2cachemode
from fuzzvm.kernel.cover_points import TABLE_FREED, WALKED_TABLE_FREED
from fuzzvm.machine.ops import Free, InterruptAll, Load, address_of
from fuzzvm.scenario import own
from fuzzvm.verify.images import _met, _of_functions

COLLAPSE = Path(__file__).parents[2] / "benchmarks/history/cpa-collapse.toml"


@pytest.mark.always
def test_a_collapse_beside_a_walk_must_free_a_table_that_is_walked(tmp_path: Path) -> None:
    assert _of_functions(own.get(str(COLLAPSE))) == {TABLE_FREED, WALKED_TABLE_FREED}
    other = tmp_path / "other.toml"
    other.write_text(COLLAPSE.read_text().replace("set_memory_rox", "set_memory_ro"))
    assert _of_functions(own.get(str(other))) == set()


@pytest.mark.always
@pytest.mark.parametrize(("table", "met"), [(7, {TABLE_FREED, WALKED_TABLE_FREED}), (8, {TABLE_FREED})])
def test_that_who_frees_a_table_has_read_it_is_no_walk(table: int, met: set[str]) -> None:
    frees = [Load(address_of(7)), Free(address_of(7))]
    walks = [Load(address_of(table))]
    automata = [SimpleNamespace(nodes=[SimpleNamespace(op=op, edges=True) for op in ops]) for ops in (frees, walks)]
    task: Any = SimpleNamespace(environment=SimpleNamespace(memory=SimpleNamespace(boot_objects=5)))
    space: Any = SimpleNamespace(automata=automata)
    assert _met(task, own.get(str(COLLAPSE)), space) == met


def calling(name: str, *arguments: int) -> Any:
    """Return the caller of a boundary function, with an image whose every address is of that name."""
    image = SimpleNamespace(name_at=lambda address: name)
    found = {**dict(enumerate(arguments)), "environment": None}
    caller = type("Caller", (), {"__getitem__": lambda self, number: found[number]})()
    caller.environment = SimpleNamespace(executable=SimpleNamespace(image=image))
    return caller


@pytest.mark.always
def test_work_on_every_cpu_is_no_flush_because_of_its_caller() -> None:
    assert list(on_each_cpu(calling("__cpa_flush_tlb", 0, 1))) == [InterruptAll()]
    with pytest.raises(ImageError, match="do_something_else is not supported"):
        list(on_each_cpu(calling("do_something_else", 0, 1)))


@pytest.mark.always
def test_another_cache_mode_is_refused() -> None:
    assert list(pgprot2cachemode(calling("", 0x8000_0000_0000_0163))) == []
    with pytest.raises(ImageError, match="cache modes"):
        list(pgprot2cachemode(calling("", 1 << 4)))
