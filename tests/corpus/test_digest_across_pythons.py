"""The trace of every corpus entry is the same on every Python version and under every PYTHONHASHSEED."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from fuzzvm.corpus import store

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13")

# without site-packages (-S): reading and replaying need nothing outside the standard library
DIGESTS = """
import json, pathlib, sys
from fuzzvm.corpus.format import read
from fuzzvm.corpus.replay import trace_digest
print(json.dumps({path: trace_digest(read(pathlib.Path(path))) for path in json.load(sys.stdin)}))
"""


@cache
def entries() -> tuple[str, ...]:
    return tuple(str(path) for path in store.find([ROOT / "corpus"]))


@cache
def digests(python: str, hash_seed: int) -> dict[str, str]:
    """Return the digest of every entry's trace, by its path, as that interpreter computes it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [python, "-S", "-c", DIGESTS],
        input=json.dumps(entries()),
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result: dict[str, str] = json.loads(ran.stdout)
    return result


def _reports_version(python: str, version: str) -> bool:
    # a shim of pyenv's is on PATH also where the version that it stands for is not selected
    try:
        ran = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return ran.returncode == 0 and ran.stdout.startswith(f"Python {version}.")


def interpreter(version: str) -> str | None:
    """Return an interpreter of that version: the one that runs, one on PATH, or one of pyenv's; None if none is."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"versions/{version}.*/bin/python"))]
    return next((path for path in candidates if path and _reports_version(path, version)), None)


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return [path for path in entries() if one[path] != other[path]]


def test_there_are_entries() -> None:
    assert entries()


@pytest.mark.product
@pytest.mark.parametrize("hash_seed", [1, 4_000_000_000])
def test_same_under_another_hash_seed(hash_seed: int) -> None:
    assert not differing(digests(sys.executable, 0), digests(sys.executable, hash_seed))


@pytest.mark.product
@pytest.mark.parametrize("version", VERSIONS)
def test_same_on_another_python(version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on PATH or in pyenv's versions")
    assert not differing(digests(sys.executable, 0), digests(python, 12_345))
