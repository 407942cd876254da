"""The record of a run: which agent did what, in which function, with which response.

The digest of a trace is the same on every machine, Python version and PYTHONHASHSEED: it is taken over text that
holds only names and numbers of the model, never an id(), a line number or the order of a set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fuzzvm.machine.ops import Annotation, Operation, Value
from fuzzvm.machine.remarks import Remark

_ADDRESS = re.compile(r" at 0x[0-9a-f]+(?=>)")


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of a run.

    `number` counts from 1. `cpu` is the CPU that the agent is or works for. `op` is None where an agent of the memory
    model stepped. `stack` names the functions of the CPU, innermost first. `old` is what a write replaced. `remark` is
    what the memory model did that sequential consistency would not. `annotations` were yielded after this step and
    before the CPU's next operation.
    """

    number: int
    agent: int
    cpu: int
    op: Operation | None
    response: Value
    stack: tuple[str, ...]
    old: Value = None
    annotations: tuple[Annotation, ...] = ()
    remark: Remark | None = None


def digest(steps: Iterable[TraceStep], ending: Sequence[str] = ()) -> str:
    """Return the SHA-256 of a trace, in hexadecimal. `ending` is the outcome, which belongs to the run as well."""
    text = hashlib.sha256()
    for step in steps:
        line = (
            f"{step.number} {step.agent} {step.op!r} -> {step.response!r} {step.old!r}"
            f" {'<'.join(step.stack)} {step.annotations!r} {step.remark!r}\n"
        )
        # a mitigation may give an Rmw a plain function, whose repr ends with where it happens to lie
        text.update(_ADDRESS.sub("", line).encode())
    for line in ending:
        text.update(f"{line}\n".encode())
    return text.hexdigest()
