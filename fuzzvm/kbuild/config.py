"""Kernel configurations: what a text sets, and what the tree's Kconfig made of it."""

from __future__ import annotations

import re
from collections.abc import Collection

from fuzzvm.kbuild.errors import KbuildError

_SET = re.compile(r"^(CONFIG_\w+)=(.*)$")
_NOT_SET = re.compile(r"^# (CONFIG_\w+) is not set$")
_SHOWN = 6


def parse(text: str) -> dict[str, str]:
    """Return the value of each option that a configuration or a fragment of one sets; the last word on one counts.

    An option that is said to be not set has the value "n".
    """
    options: dict[str, str] = {}
    for line in text.splitlines():
        if found := _SET.match(line.strip()):
            options[found[1]] = found[2]
        elif found := _NOT_SET.match(line.strip()):
            options[found[1]] = "n"
    return options


def check_taken(made: str, asked: str, optional: Collection[str] = ()) -> list[str]:
    """Return which of the `optional` options that the fragments ask for the tree's Kconfig has turned off.

    Raises KbuildError where it has turned off another one that they ask for.
    """
    options = parse(made)
    wanted = {name: value for name, value in parse(asked).items() if value == "y"}
    off = [name for name, value in wanted.items() if options.get(name) != value]
    refused = [f"{name}={wanted[name]}" for name in off if name not in optional]
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise KbuildError(f"this tree does not take {', '.join(refused[:_SHOWN])}{more}")
    return off
