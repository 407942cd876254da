"""fuzzvm.dump under bytes of any kind: an answer or a DumpError, and soon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.dump import DumpError, compare, summarise
from tests.clock import no_hang
from tests.dump import samples

TEXTS = [text.encode() for text in (*samples.SAMPLES.values(), samples.ARM64_TABLES_3)]
WORDS = [*b" ".join(TEXTS).split(), b"0x", b"-", b"\n", b"\0", b"[", b"]---", b"---[", b"\xff", b"TBL", b"CON", b"0K"]
SIZE = 64 << 10


@no_hang()
def answer(path: Path) -> None:
    """Read a file; whatever it holds, it is an answer that can be printed, or an error that names the file."""
    try:
        data = summarise(str(path)).to_data()
    except DumpError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        assert error.line >= 0
    else:
        json.dumps(data)
        assert 0 <= data["total"]["tlb_entries"] <= data["total"]["tlb_entries_as_pages"]
        shares = [region["block_share"] for region in data["regions"]]
        assert all(share is None or 0 <= share <= 1 for share in shares)
        assert sum(region["mapped_bytes"] for region in data["regions"]) == data["total"]["mapped_bytes"] <= 1 << 64
        assert len(data["warnings"]) <= 21
        assert data["rows"] + data["skipped_rows"] + data["other_lines"] <= data["lines"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a sample with some of its bytes, words or lines changed, taken out, doubled or put elsewhere."""
    data = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        unit = draw(st.sampled_from([b"", b" ", b"\n"]))
        parts = list(data.split(unit)) if unit else [data[n : n + 1] for n in range(len(data))]
        place = draw(st.integers(0, len(parts) - 1))
        match draw(st.sampled_from(["out", "double", "swap", "replace", "insert", "cut"])):
            case "out":
                del parts[place]
            case "double":
                parts.insert(place, parts[place])
            case "swap":
                other = draw(st.integers(0, len(parts) - 1))
                parts[place], parts[other] = parts[other], parts[place]
            case "replace":
                parts[place] = draw(st.sampled_from(WORDS) | st.binary(max_size=8))
            case "insert":
                parts.insert(place, draw(st.sampled_from(WORDS) | st.binary(max_size=8)))
            case "cut":
                parts = parts[place:] if draw(st.booleans()) else parts[:place]
        data = unit.join(parts)
        if not data:
            break
    return data


anything = st.binary(max_size=500) | st.lists(st.sampled_from(WORDS), max_size=80).map(b" ".join) | mutated()


@settings(deadline=None, max_examples=500)
@given(anything)
def test_bytes_of_any_kind(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("dump") / "dump"
    path.write_bytes(data)
    answer(path)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.large_base_example, HealthCheck.too_slow])
@given(anything.filter(bool))
def test_64_kilobytes_take_no_second(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("dump") / "dump"
    path.write_bytes((data * (SIZE // len(data) + 1))[:SIZE])
    answer(path)


@pytest.mark.parametrize(
    "piece",
    [
        b"0x",
        b"0x0",
        b"0xffff000000000000",
        b"0xffff000000000000-",
        b"0xffff000000000000-0xffff000000000000",
        b"0xffff000000000000-0xffff000000000000 ",
        b"---[ ",
        b"---[ a ]---",
        b"[mem ",
        b"-0x0",
        b"\n",
        b"** 1 printk messages dropped **\n",
        b"... 1 entries skipped ... ",
        b"** 1",
        b" ",
        b"\0",
    ],
)
def test_the_same_piece_over_and_over(tmp_path: Path, piece: bytes) -> None:
    path = tmp_path / "dump"
    for before in (b"", samples.ARM64.encode()):
        for again in (b"", b"\n"):
            path.write_bytes(before + (piece + again) * (SIZE // (len(piece) + len(again))))
            answer(path)


@settings(deadline=None, max_examples=100)
@given(mutated(), mutated())
def test_two_dumps_of_any_kind(tmp_path_factory: pytest.TempPathFactory, before: bytes, after: bytes) -> None:
    folder = tmp_path_factory.mktemp("dumps")
    (folder / "before").write_bytes(before)
    (folder / "after").write_bytes(after)
    try:
        difference = compare(str(folder / "before"), str(folder / "after"), limit=3)
    except DumpError:
        return
    json.dumps(difference.to_data())
    assert len(difference.changes) <= 3
    at = 0
    for change in difference.changes:
        assert at <= change.start < change.end
        at = change.end
