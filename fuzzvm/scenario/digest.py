"""The digest of a task: what a certificate is about, in one number.

Two tasks of one digest are built by the same code of the model, from the same scenario, scheme and memory model.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from fuzzvm.files.reading import read_bytes
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.mitigations.errors import short
from fuzzvm.scenario.scenario import Scenario

_PARTS = ("machine", "kernel", "mitigations", "scenario")
"""The packages that say what a task does,"""
WITH_SEARCH = (*_PARTS, "exhaustive", "verify")
"""and with those that search it."""
_MAX_BYTES = 1 << 20
"""Of a file of the model."""


def task_digest(scenario: Scenario, mitigation: str, memory: str, without: tuple[str, ...] = ()) -> str:
    """Return the digest of a task, in hexadecimal; `mitigation` is what the scheme is asked for by.

    Of a scheme in a file it has the text, and not where that lies. Raises MitigationError, FileError.
    """
    data = [code_digest(), scenario.to_data(), scheme_texts(mitigation), memory, list(without)]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def scheme_texts(mitigation: str) -> list[str | list[str]]:
    """Return the names of a scheme's parts; of those in a file the class, and the digest of the file's text.

    Raises MitigationError.
    """
    return [_text_of(part) if registry.is_path(part) else part for part in registry.split(mitigation)]


def _text_of(spec: str) -> list[str]:
    filename, _, class_name = spec.rpartition(":")
    if not sent_files.is_there(filename):
        raise registry.MitigationError(f"{short(filename)}: no such file")
    return [class_name, hashlib.sha256(sent_files.current(filename).text).hexdigest()]


@functools.cache
def code_digest(parts: tuple[str, ...] = _PARTS) -> str:
    """Return the digest of the code in some packages of fuzzvm, by default of those that say what a task does."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for part in parts:
        for path in sorted((root / part).rglob("*")):
            if path.suffix in (".py", ".toml"):
                text = read_bytes(path, _MAX_BYTES)
                found.update(f"{path.relative_to(root)} {len(text)}\n".encode() + text)
    return found.hexdigest()
