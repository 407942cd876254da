"""A run for other tools: litmus tests for herd7, AArch64's and the kernel's, and a model for Spin.

Layer: above `report` and the searches, below `cli`.
Tests: tests/export/.
"""
