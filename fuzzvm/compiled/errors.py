"""What can be wrong with a kernel image, or with what is asked of it."""

from __future__ import annotations


class ImageError(Exception):
    """No image, no such name, code that cannot be run: one line that says what is wrong."""
