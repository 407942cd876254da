"""A run for other tools: litmus tests for herd7, AArch64's and the kernel's, a model for Spin, a program for a kernel.

Layer: above `report` and the searches, below `cli`.
Tests: tests/export/.
"""
