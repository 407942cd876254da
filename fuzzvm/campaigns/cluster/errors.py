"""What is wrong with a cluster."""

from __future__ import annotations


class ClusterError(Exception):
    """There is no such cluster, or it cannot do this work: one line that says why."""
