"""One thread's own stores are explored in one order where nobody can tell: see docs/decisions/0008."""

from __future__ import annotations

from typing import Any

import pytest

from fuzzvm import litmus
from fuzzvm.litmus.state import ThreadRun


def text(values: list[int], locations: int = 1) -> str:
    rows = "".join(f" MOV W20,#{value} ;\n STR W20,[X{at % locations}] ;\n" for at, value in enumerate(values))
    initial = " ".join(f"0:X{number}=v{number};" for number in range(locations))
    return f"AArch64 stores\n{{ {initial} }}\n P0 ;\n{rows}locations [v0;]\nexists (true)\n"


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often a run comes to a message."""
    counted = [0]
    put = ThreadRun.put

    def counting(self: ThreadRun, *arguments: Any) -> Any:
        counted[0] += 1
        return put(self, *arguments)

    monkeypatch.setattr(ThreadRun, "put", counting)
    return counted


@pytest.mark.parametrize("number", [8, 16, 32])
@pytest.mark.parametrize("same", [True, False])
def test_stores_to_one_address_have_one_order(number: int, same: bool, puts: list[int]) -> None:
    result = litmus.run(text([1] * number if same else list(range(1, number + 1))), "stores")
    assert result.states == (("1",) if same else (str(number),),)
    assert result.timelines == number + 1
    assert puts[0] == (number + 1) * number  # one run for each prefix of the timeline


def test_stores_to_addresses_that_nobody_loads_have_one_order() -> None:
    assert litmus.run(text(list(range(1, 9)), 8), "stores").timelines == 2**8  # any of them may be there already
