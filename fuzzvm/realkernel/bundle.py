"""Writes what a maintainer needs to judge a finding into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fuzzvm.corpus.image_table import ImageTable
from fuzzvm.files.folder import write_folder
from fuzzvm.files.reading import read_bytes
from fuzzvm.realkernel.build import MAX_TEXT, BuiltKernel, guest_files, guest_sources
from fuzzvm.realkernel.outcome import Outcome

_README = """\
{headline}

Linux {release} for {arch}, {page_size} pages, {levels} levels{changes}; replayed {times} times under QEMU (TCG).

schedule.toml     the schedule, as `fuzzvm explain` and `fuzzvm replay` read it
story.txt         what {told} says happens
results.ktap      how each replay ended, with KASAN's reports
console.log       what the guest of one replay printed
config            the kernel's configuration
guest/            what the guest runs: its program and module in C, and the script of its calls

To see it again, build a kernel from the same source and replay:

    fuzzvm kernel build --tree LINUX --arch {arch} --page-size {page_size} --levels {levels}{options} -o OUT
{image}    fuzzvm kernel replay schedule.toml{option} --kernel OUT
"""


def save(
    folder: Path,
    case: Path,
    image: ImageTable | None,
    kernel: BuiltKernel,
    outcome: Outcome,
    times: int,
    texts: Mapping[str, str],
) -> None:
    """Write the folder, whole or not at all. `texts` are further files by name.

    `image` is that of the case, if it is of one. `outcome` is that of the replay whose console is kept.

    Raises FileError.
    """
    parts = [f" --without-fix {step}" for step in kernel.without]
    # the user has the files, by names that mean nothing elsewhere
    parts += [" --patch FILE" for _ in kernel.patches]
    readme = _README.format(
        headline=f"{outcome.result.value}: {outcome.message}",
        release=kernel.release,
        arch=kernel.arch,
        page_size=kernel.page_size,
        levels=kernel.levels,
        changes=kernel.changes,
        times=times,
        told="the model" if image is None else "the image",
        image="" if image is None else f"    {image.build.removesuffix(' -o DIR')} -o IMAGE\n",
        option="" if image is None else " --image IMAGE",
        options="".join(parts),
    )
    guest = guest_sources()
    names = [path for path in guest_files(guest) if path.suffix != ".config"]
    files: dict[str, str | bytes] = {
        "README": readme,
        "schedule.toml": read_bytes(case, MAX_TEXT),
        "console.log": "".join(f"{line}\n" for line in outcome.console),
        "config": kernel.config(),
        "guest/script": "".join(f"{line}\n" for line in outcome.script),
        **{f"guest/{path.relative_to(guest)}": read_bytes(path, MAX_TEXT) for path in names},
        **texts,
    }
    write_folder(folder, files)
