"""What people read: the story of a run, as text.

Layer: beside `campaigns`, above `corpus`.
Tests: tests/report/.
"""
