"""Which code has been run."""

from __future__ import annotations

from fuzzvm.compiled.isa.engine import Code, Halt
from harnesses.arm64.differential import NonePrivate
from tests.compiled.arm64.programs import BASE, reader, start

NOP, BRANCH_OVER = 0xD503201F, 0x14000002


def test_what_has_run_is_known_by_address() -> None:
    code = Code(reader((NOP, BRANCH_OVER, NOP, NOP)), {BASE + 16})
    assert code.run(start(), NonePrivate(), 10) is Halt.STOP
    assert code.has_run() == {BASE, BASE + 4, BASE + 12}
    # what was compiled before counts again once it is run again
    code.forget_runs(1)
    assert code.has_run() == {BASE, BASE + 4}
    code.forget_runs()
    assert code.has_run() == frozenset()
    code.run(start(pc=BASE + 8), NonePrivate(), 10)
    assert code.has_run() == {BASE + 8, BASE + 12}
