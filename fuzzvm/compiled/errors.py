"""What can be wrong with a kernel image, or with what is asked of it."""

from __future__ import annotations


class ImageError(Exception):
    """No image, no such name, code that cannot be run: one line that says what is wrong."""


class ConversionError(ImageError):
    """A run that has no counterpart in which other accesses are steps; one line."""


WILD_ACCESS = "wild-access"
KERNEL_BUG = "kernel-bug"
KERNEL_WARNING = "kernel-warning"

DESCRIPTIONS = {
    WILD_ACCESS: "an address was accessed at which nothing is",
    KERNEL_BUG: "a BUG() was reached",
    KERNEL_WARNING: "a WARN() was reached",
}
"""What each error of compiled code means, by id, beside those of the kernel model."""
