"""What can be wrong with a kernel's source, its patches, its configuration, or the tools that build it."""

from __future__ import annotations


class KbuildError(Exception):
    """No tree, no package, no build: one line that says what is wrong."""


class CommandError(KbuildError):
    """A command has come to its own end, and failed."""


class BusyError(KbuildError):
    """Another build is at work in the folder."""
