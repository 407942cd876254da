"""Slots of the register file that every instruction set has; the others are in its `registers`.

A register file is a list of integers, each in 0..2**64-1. Dependencies are tracked for the same slots.
"""

from __future__ import annotations

SP = 31
"""The stack pointer."""
PC = 33
"""The address of the next instruction. What is tracked for it are the control dependencies."""

MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1
