"""A deterministic multiprocessor: CPUs, memory, an allocator, a schedule. It knows nothing of Linux.

Layer: above `supervision`, whose `stopping` and `user_code` it uses; imports nothing outside the standard library.
Tests: tests/machine/.
"""
