"""Schemes against freeing a page table under a walker. One file a scheme, found by being here.

Layer: above `kernel`, whose `hooks.Mitigation` each scheme derives from.
Tests: tests/mitigations/.
"""
