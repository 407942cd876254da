"""fuzzvm.certificate.file: whatever a file is, reading it ends soon, in a certificate or in one line."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.certificate import file
from fuzzvm.certificate.file import UnreadableError, read
from tests.certificate.forging import MAGIC, Parts, certificate, packed

BIG = 1 << 20


def refused(path: Path) -> str:
    """Return why a file is not read."""
    with pytest.raises(UnreadableError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def of_bytes(content: bytes, folder: Path) -> str:
    """Return why a file of this content is not read."""
    path = folder / "file"
    path.write_bytes(content)
    return refused(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in refused(tmp_path / "pipe")
    assert "device" in refused(Path("/dev/zero"))
    assert "directory" in refused(tmp_path)
    assert refused(tmp_path / "nothing")
    assert refused(Path("/proc/self/mem"))


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as sparse:
        sparse.write(MAGIC)
        sparse.truncate(file.MAX_BYTES + 1)
    assert "larger" in refused(path)


def test_what_unpacks_to_more_than_a_certificate_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MAX_HEADER", BIG)
    monkeypatch.setattr(file, "MAX_STATES", 16)
    assert "unpacks to more" in of_bytes(packed(bytes(64 * BIG)), tmp_path)
    assert "header does not end" in of_bytes(packed(b" " * BIG), tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no certificate"),
        (MAGIC[:-2], "no certificate"),
        (MAGIC, "cut off"),
        (MAGIC + b"no stream", "damaged"),
        (packed(b"{}") + b"more", "goes on"),
        (packed(b""), "header"),
        (packed(b"[]\n"), "object"),
        (packed(b"{\n"), "no JSON"),
        (packed(b"\xff\n"), "no JSON"),
        (packed(b"[" * 200_000 + b"\n"), "nested"),
        (packed(b'{"states": 1' + b"0" * 9000 + b"}\n"), "no JSON"),
        (packed(b'{"verdict": "perhaps"}\n'), "neither"),
        (packed(b'{"verdict": ["safe"]}\n'), "no text"),
        (packed(b"{}\n"), "lacks verdict"),
    ],
)
def test_what_is_no_certificate(content: bytes, why: str, tmp_path: Path) -> None:
    assert why in of_bytes(content, tmp_path)


def changed(key: str, value: Any) -> bytes:
    """Return a certificate of which one part of the header is another."""
    parts = Parts.of(certificate("config-off", "pmd-promotion", "arm64"))
    parts.header[key] = value
    columns = zlib.decompress(certificate("config-off", "pmd-promotion", "arm64").removeprefix(MAGIC))
    return packed(json.dumps(parts.header).encode() + b"\n" + columns.partition(b"\n")[2])


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("states", 0, "columns"),
        ("states", 10**9, "bounds"),
        ("states", True, "number"),
        ("states", 1.0, "number"),
        ("steps", [], "steps"),
        ("steps", [[]] * 9, "a step that is none"),
        ("steps", [[-1]], "bounds"),
        ("facts", [["fly", 1]], "a fact"),
        ("facts", [["barrier", "dmb sy"]], "a fact"),
        ("claims", [1], "a claim"),
        ("claims", [[999]], "facts"),
        ("locals", [999], "claims"),
        ("orders", [[1]], "pair"),
        ("entries", {}, "no list"),
        ("python", "2.7", "Python"),
        ("memory", "alpha", "memory model"),
        ("without", ["everything"], "ordering point"),
        ("scenario", [], "scenario"),
        ("scenario", {"arch": "vax"}, "scenario"),
        ("comment", "hello", "nobody knows"),
    ],
)
def test_parts_that_are_none(key: str, value: Any, why: str, tmp_path: Path) -> None:
    assert why in of_bytes(changed(key, value), tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1 << 70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from([
            "verdict", "states", "steps", "facts", "claims", "locals", "orders", "entries", "python", "scenario",
            "task", "memory", "without", "mitigation", "schedule",
        ]),
        JSON,
    )
)  # fmt: skip
def test_whatever_the_header_says(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    parts = Parts.of(certificate("config-off", "pmd-promotion", "arm64"))
    header = parts.header | data
    path = tmp_path_factory.getbasetemp() / "header"
    path.write_bytes(packed(json.dumps(header).encode() + b"\n" + bytes(12)))
    refused(path)
