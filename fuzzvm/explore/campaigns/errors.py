"""What can end a campaign."""

from __future__ import annotations


class CampaignError(Exception):
    """A campaign cannot begin or go on: one line that says why. What its folder holds is whole, and stays."""


class NondeterministicError(CampaignError):
    """A finding does not replay: the mitigation or fuzzvm depends on more than the schedule."""
