"""Reads files that nobody vouches for, writes files that users name, and makes text printable.

Every command goes through here, so that the rules of docs/decisions/0012-hostile-input.md stand in one place.

Layer: the lowest, beside `machine`; standard library only.
Tests: tests/files/.
"""
