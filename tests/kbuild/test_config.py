"""Configurations: the last word on an option counts, and what a tree does not take is named."""

from __future__ import annotations

import pytest

from fuzzvm.kbuild.config import check_taken, parse
from fuzzvm.kbuild.errors import KbuildError


def test_the_last_word_counts() -> None:
    assert parse('CONFIG_A=y\n# comment\n# CONFIG_A is not set\nCONFIG_B="x y"\n') == {
        "CONFIG_A": "n",
        "CONFIG_B": '"x y"',
    }


def test_an_option_that_the_tree_does_not_take_is_named() -> None:
    asked = "CONFIG_KASAN=y\nCONFIG_SMP=y\n# comment\nCONFIG_X=n\nCONFIG_Z=y\nCONFIG_Z=n\n"
    check_taken("CONFIG_KASAN=y\nCONFIG_SMP=y\n", asked)
    with pytest.raises(KbuildError, match="CONFIG_KASAN=y"):
        check_taken("CONFIG_SMP=y\n# CONFIG_KASAN is not set\n", asked)


def test_of_many_that_are_not_taken_some_are_named() -> None:
    with pytest.raises(KbuildError, match=r"CONFIG_A0=y, .* and 4 more"):
        check_taken("", "".join(f"CONFIG_A{number}=y\n" for number in range(10)))


def test_what_may_be_off_is_returned_and_the_rest_refused() -> None:
    asked = "CONFIG_PREEMPT_NONE=y\nCONFIG_SMP=y\nCONFIG_KASAN=y\n"
    assert check_taken("CONFIG_SMP=y\nCONFIG_KASAN=y\n", asked, ["CONFIG_PREEMPT_NONE"]) == ["CONFIG_PREEMPT_NONE"]
    with pytest.raises(KbuildError, match=r"does not take CONFIG_KASAN=y$"):
        check_taken("CONFIG_SMP=y\n", asked, ["CONFIG_PREEMPT_NONE"])
