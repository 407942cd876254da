"""The kernel's side: page tables, vmalloc, ptdump, locks and static keys, written to read like the C they model.

Layer: above `machine`; knows no mitigation by name and, outside `arch/`, no architecture.
Tests: tests/kernel/.

Every function that acts is a generator and keeps the kernel's name. So that a CPU's state is its position and its
locals (docs/decisions/0003), a `yield` stands alone or on the right of an assignment or `return`, and loops around
one are `while` loops over plain locals; tests/kernel/test_yield_discipline.py checks it.
"""
