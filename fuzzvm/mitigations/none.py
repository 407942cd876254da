"""No scheme at all: the table is freed at once."""

from fuzzvm.kernel.hooks import Mitigation


class NoMitigation(Mitigation):
    """Huge vmap beside ptdump with nothing between them."""

    name = "none"
    summary = "frees at once"
    one_walker = "bug"
    two_walkers = "bug"
    other_mm = "bug"
    collapse = "bug"
