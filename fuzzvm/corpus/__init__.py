"""Test cases as files: their format, their replay, the folder that they are kept in.

Layer: above `scenario`. Reading and replaying need nothing outside the standard library.
Tests: tests/corpus/.
"""
