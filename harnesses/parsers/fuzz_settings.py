"""Fuzzes the settings of campaigns: a text of JSON gives settings or a CampaignError, and runs no code.

The reader refuses a text whose digest is wrong, so an object gets the right one first. How to run it: frame.py.
"""

import json
from pathlib import Path

from frame import fuzz, instrumented

with instrumented(__name__, "fuzzvm.campaigns.settings", "fuzzvm.scenario"):
    from fuzzvm.campaigns.errors import CampaignError
    from fuzzvm.campaigns.settings import Settings, digest_of_data, parse

HERE = Path("campaign", "settings.json")


def one_input(data: bytes) -> None:
    """Read bytes as settings, as they are and with their digest."""
    text = data.decode("utf-8", errors="replace")
    read(text)
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            value.pop("digest", None)
            text = json.dumps(value | {"digest": digest_of_data(value)})
    except (ValueError, RecursionError):
        return
    read(text)


def read(text: str) -> None:
    """Read a text."""
    try:
        settings = parse(text, HERE).settings
    except CampaignError as error:
        assert str(error).isprintable(), f"more than a line: {error!r}"
        return
    assert isinstance(settings, Settings) and settings.targets and settings.engines
    assert settings.mitigations()


if __name__ == "__main__":
    fuzz("fuzz_settings", one_input)
