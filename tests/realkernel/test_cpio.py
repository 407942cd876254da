"""Archives are what the format says, read back by a reader that knows nothing of the writer."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.realkernel import cpio

names = st.text("abcdefgh/._-", min_size=1, max_size=40)
members = st.lists(st.builds(cpio.regular, names, st.binary(max_size=40)), max_size=5)


def unpack(data: bytes) -> list[tuple[str, int, bytes, int]]:
    """Return name, mode, content and device number of every member, as buffer-format.rst describes them."""
    found, at = [], 0
    while at < len(data):
        header = data[at : at + 110]
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        mode, size, major, minor, length = fields[1], fields[6], fields[9], fields[10], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        assert data[at + 110 + length - 1] == 0
        start = (at + 110 + length + 3) & ~3
        found.append((name, mode, data[start : start + size], major << 8 | minor))
        at = (start + size + 3) & ~3
    return found


@given(members, members)
def test_what_is_packed_is_unpacked_one_archive_after_the_other(
    first: list[cpio.Member], second: list[cpio.Member]
) -> None:
    got = unpack(cpio.archive(first) + cpio.archive(second))
    assert [(name, content) for name, _, content, _ in got if name != "TRAILER!!!"] == [
        (member.name, member.data) for member in (*first, *second)
    ]
    assert sum(name == "TRAILER!!!" for name, *_ in got) == 2


def test_kinds() -> None:
    made = cpio.archive(
        [cpio.directory("dev"), cpio.character_device("dev/console", 5, 1), cpio.regular("init", b"x", executable=True)]
    )
    folder, console, init, _ = unpack(made)
    assert stat.S_ISDIR(folder[1])
    assert stat.S_ISCHR(console[1]) and console[3] == 0x501
    assert init[1] == stat.S_IFREG | 0o755
