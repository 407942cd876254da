"""Which code has been run."""

from __future__ import annotations

from fuzzvm.compiled.arm64.engine import Code, Halt
from fuzzvm.compiled.arm64.registers import COUNT, PC
from harnesses.arm64.differential import NonePrivate

BASE = 0x1000
NOP, BRANCH_OVER, RET = 0xD503201F, 0x14000002, 0xD65F03C0


def test_what_has_run_is_known_by_address() -> None:
    words = {BASE: NOP, BASE + 4: BRANCH_OVER, BASE + 8: NOP, BASE + 12: NOP}
    code = Code(words.__getitem__, {BASE + 16})
    x = [0] * COUNT
    x[PC] = BASE
    assert code.run(x, NonePrivate(), 10) is Halt.STOP
    assert code.has_run() == {BASE, BASE + 4, BASE + 12}
    # what was compiled before counts again once it is run again
    code.forget_runs(1)
    assert code.has_run() == {BASE, BASE + 4}
    code.forget_runs()
    assert code.has_run() == frozenset()
    x[PC] = BASE + 8
    code.run(x, NonePrivate(), 10)
    assert code.has_run() == {BASE + 8, BASE + 12}
