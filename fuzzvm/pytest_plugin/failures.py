"""What a test of the plugin fails with."""

from __future__ import annotations


class NotAsExpectedError(AssertionError):
    """A run did not go as it must; the message is the whole report, its first line names the error's id."""
