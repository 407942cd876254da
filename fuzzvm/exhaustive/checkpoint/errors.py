"""What is wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(Exception):
    """A checkpoint cannot be written or gone on from: one line that says why, without the name of its file."""


class DamagedError(CheckpointError):
    """What is in a checkpoint is not what a search has written."""

    def __init__(self, why: str) -> None:
        super().__init__(f"damaged, or no checkpoint: {why}")
