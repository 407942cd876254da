"""What can be wrong with what the user gave, or with what QEMU and the kernel made of it."""

from __future__ import annotations


class RealKernelError(Exception):
    """No tree, no package, no build, no boot: one line that says what is wrong."""


class NoCounterpartError(RealKernelError):
    """A test case asks for something that cannot be done, or judged, on a real kernel."""
