"""Scenarios: an architecture, the page tables at the beginning, and what each CPU calls.

Layer: above `mitigations`. Shipped scenarios are the files of `builtin/`; a new one is a new file there.
Tests: tests/scenario/.
"""
