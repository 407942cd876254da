"""What cannot be exported."""

from __future__ import annotations


class ExportError(Exception):
    """A test case has no counterpart in the other tool's language; the message is one line that says why."""
