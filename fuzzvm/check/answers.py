"""The answers of a check, and what they are to `git bisect run`."""

from __future__ import annotations

NO_CHANGE = "no change"
FIXED = "fixed"
BROKEN = "broken"
STILL_BROKEN = "still broken"
UNDECIDED = "undecided"
NOT_LOOKED_AT = "not looked at"
UNTESTED = "cannot be tested"

CANNOT_BE_TESTED = 125
STATUS = {
    NO_CHANGE: 0,
    FIXED: 0,
    BROKEN: 1,
    STILL_BROKEN: 1,
    UNDECIDED: CANNOT_BE_TESTED,
    NOT_LOOKED_AT: CANNOT_BE_TESTED,
    UNTESTED: CANNOT_BE_TESTED,
}
"""Exit statuses: 0 is a good commit, 125 one that cannot be tested, and all others are bad ones."""
