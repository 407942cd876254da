"""Compiled code of an image beside the hand-written model, operation by operation.

    operations     what one step is in both: a visible operation, by function and table entry
    recorded       runs a task in a few orders of CPUs and records what it does
    compiled_side  the steps of an image's code as visible operations
    model_side     the steps of the model as visible operations
    collapse       entries that only the image's larger tables have
    align          the two sequences of a call side by side, and what differs
    reasons        why a difference does no harm; one with no reason is drift
    compare        all of it, for the scenarios that both can run

Tests: tests/compare/.
"""
