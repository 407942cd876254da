"""Counts the page tables that a real kernel believes to have, before and after memory whose linear map was split is
taken out again and again: docs/open-in-7.3.md, "Hot-remove of a table that CPA has split".

    python benchmarks/hot_remove_counter.py OUT [ROUNDS]

OUT is what `fuzzvm kernel build` made for x86_64 with 4 levels. The kernel is not stopped and nothing is patched. With
ROUNDS rounds that split a block, and as many that do not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fuzzvm.realkernel import build, hotplug
from fuzzvm.realkernel.guest import Guest

COUNTED = "nr_page_table_pages"
DEVICE = f"{hotplug.PHYSICAL:#x}"
ADD = f"boot device {DEVICE} {hotplug.SUBSECTION:#x}"
SPLIT = f"boot set_memory_ro {hotplug.LINEAR_MAP + hotplug.PHYSICAL:#x} 0x1"
TAKE_OUT = f"boot undevice {DEVICE}"


def main() -> None:
    kernel = build.load(Path(sys.argv[1]))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    count = f"boot count {COUNTED}"
    calls = [count, *[ADD, TAKE_OUT] * rounds, count, *[ADD, SPLIT, TAKE_OUT] * rounds, count]
    with Guest(kernel, calls, 2) as guest:
        guest.wait("script done", 600.0)
        guest.alive()
        lines = guest.qemu.lines()
    before, whole, split = (int(line.split()[-1]) for line in lines if line.startswith(f"fuzzvm: counted {COUNTED}"))
    click.echo(f"Linux {kernel.release}: {COUNTED} {before}")
    click.echo(f"{rounds} times memory added and taken out: {whole - before:+d}")
    click.echo(f"{rounds} times with a block of its linear map split: {split - whole:+d}")


if __name__ == "__main__":
    main()
