"""x86_64 (arch/x86/mm/dump_pagetables.c, printk_prot(); the same in Linux 2.6.30 to 6.18, p4d since 4.12).

    0xffffc90000000000-0xffffc90000008000          32K     RW                 GLB NX pte
    0xffffc90000200000-0xffffc90000400000           2M     RW         PSE     GLB NX pmd
    0xffffc90000400000-0xffffc90040000000        1020M                               pmd

Permissions are those of the entry itself. Whether the levels above forbid writing or execution is not printed, though
the kernel's own W+X check asks for it (effective_prot()), so that a row can look worse here than it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from fuzzvm.dump.entry import Entry, Kind, Level
from fuzzvm.dump.layouts import Layout, unknown_words

_LEVELS = {level.name.lower(): level for level in Level}
_KNOWN = frozenset({"USR", "RW", "ro", "PWT", "PCD", "PSE", "PAT", "GLB", "NX", "x"})


class X86(Layout):
    """The level stands last."""

    name = "x86_64"
    architecture = "x86_64"
    page_sizes = (4 << 10,)

    def parse(self, words: Sequence[str]) -> Entry | None:
        if not words or words[-1] not in _LEVELS:
            return None
        level, attributes = _LEVELS[words[-1]], words[:-1]
        if not attributes:
            return Entry(level, Kind.HOLE)
        unknown = unknown_words(attributes, _KNOWN)
        if unknown is None or len(set(attributes)) < len(attributes):
            return None
        if ("RW" in attributes) == ("ro" in attributes) or ("NX" in attributes) == ("x" in attributes):
            return None
        return Entry(
            level,
            Kind.PAGE if level == Level.PTE else Kind.BLOCK,
            tuple(word for word in attributes if word != "PSE"),
            writable="RW" in attributes,
            executable="x" in attributes,
            # the memory type is of PWT, PCD and PAT together; uncached is what devices are mapped as
            device="PCD" in attributes,
            unknown=unknown,
        )

    def complete(self, words: Sequence[str]) -> bool:
        return bool(words) and words[-1] in _LEVELS


LAYOUT = X86()
