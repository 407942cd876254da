"""What is wrong with a scenario."""

from __future__ import annotations


class ScenarioError(Exception):
    """A scenario is not valid. `key` names the part of it that is wrong, as its file calls it, where one is known."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key
