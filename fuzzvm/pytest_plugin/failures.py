"""What a test of the plugin fails with."""

from __future__ import annotations

from fuzzvm.files.printable import printable_lines


class NotAsExpectedError(AssertionError):
    """A run did not go as it must; the message is the whole report, its first line names the error's id.

    What cannot be printed is escaped: the report repeats names of files, and what stands in them.
    """

    def __init__(self, report: str) -> None:
        super().__init__(printable_lines(report))
