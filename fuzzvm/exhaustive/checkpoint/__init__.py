"""Searches on disk: a verdict that is cut off goes on in another process (docs/decisions/0022-checkpoints.md)."""
