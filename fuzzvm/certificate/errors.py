"""What is wrong with a certificate that can be read."""

from __future__ import annotations


class RejectedError(Exception):
    """A certificate does not show what it says: one line that says why not."""
