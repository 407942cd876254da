"""What people read: the story of a run, as text.

Layer: beside `explore`, above `corpus`.
Tests: tests/report/.
"""
