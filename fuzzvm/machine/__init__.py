"""A deterministic multiprocessor: CPUs, memory, an allocator, a schedule. It knows nothing of Linux.

Layer: the lowest; imports nothing of fuzzvm but itself, and nothing outside the standard library.
Tests: tests/machine/.
"""
