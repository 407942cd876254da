"""The memory of AArch64: other-multi-copy-atomic, with instruction fetch (Arm ARM B2.3, D7.5).

`timeline` and `views` are the model itself, shared with litmus tests; `adapter` lets programs of a machine run on it.
What the adapter leaves out, next to the model, is said in its docstring.
"""

from __future__ import annotations

from fuzzvm.machine.memory.arm64.adapter import Arm64

MODEL = Arm64
