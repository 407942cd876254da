"""Certificates of what ships, taken apart and put together again, as somebody would who wants a lie accepted."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fuzzvm.certificate.check import check
from fuzzvm.certificate.file import read
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.mitigations import registry
from fuzzvm.scenario import own
from fuzzvm.scenario.digest import task_digest
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify import certify
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell

MAGIC = b"fuzzvm certificate 1\n"


@cache
def certificate(mitigation: str, scenario: str, memory: str) -> bytes:
    """Return the certificate of a cell."""
    cell = Cell(mitigation, own.get(scenario), memory)
    return certify.certify(cell, verify_cell(cell, Bounds(Limits())).verdict, Limits()).content


@dataclass
class Parts:
    """What a certificate is made of. Of `columns`, the first has differences of parents, then steps and ranks."""

    header: dict[str, Any]
    columns: list[list[int]]

    @classmethod
    def of(cls, content: bytes) -> Parts:
        """Return the parts of a certificate."""
        header, _, rest = zlib.decompress(content.removeprefix(MAGIC)).partition(b"\n")
        numbers = array("I", rest)
        count = len(numbers) // 3
        return cls(json.loads(header), [list(numbers[at * count : (at + 1) * count]) for at in range(3)])

    @property
    def parents(self) -> list[int]:
        """The state that each is come to from."""
        found, at = [], 0
        for difference in self.columns[0]:
            at += difference
            found.append(at)
        return found

    @parents.setter
    def parents(self, parents: list[int]) -> None:
        self.columns[0] = [after - before for before, after in zip([0, *parents], parents, strict=False)]

    def content(self) -> bytes:
        """Return the certificate that they are, with the digest of the task that they name and the count of states."""
        header = dict(self.header)
        scenario = Scenario.from_data(header["scenario"])
        header["task"] = task_digest(scenario, header["mitigation"], header["memory"], tuple(header["without"]))
        if "states" in header:
            header["states"] = len(self.columns[0])
        numbers = array("I", [number for column in self.columns for number in column])
        return packed(json.dumps(header).encode() + b"\n" + numbers.tobytes())


def packed(text: bytes) -> bytes:
    """Return the file of a certificate that unpacks to a text."""
    return MAGIC + zlib.compress(text)


def forged(content: bytes, change: Callable[[Parts], None]) -> bytes:
    """Return a certificate with something changed."""
    parts = Parts.of(content)
    change(parts)
    return parts.content()


def checked(content: bytes, folder: Path, mitigation: str | None = None) -> None:
    """Check a certificate. Raises as `read` and `check` do."""
    path = folder / "certificate"
    path.write_bytes(content)
    found = read(path)
    name = mitigation or found.task.mitigation
    check(found, registry.get(name), name)
