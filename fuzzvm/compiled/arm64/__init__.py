"""AArch64 instructions: decoding, semantics, generated Python code, and an engine that runs it.

`decode` turns a word into an `Instruction`. Its `Effect` says once, as expressions over the register file, what the
instruction does. Values, dependencies and the tables of registers read and written are all derived from it.
`engine.Code` runs code up to the next instruction that other CPUs can see, and describes that one as an `Access`.
`image` is what building and loading a kernel image needs to know of the architecture.

Tests: tests/compiled/arm64/. Why own semantics: docs/decisions/0016-compiled-code.md.
"""
