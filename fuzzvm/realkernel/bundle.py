"""Writes what a maintainer needs to judge a finding into a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fuzzvm.files.reading import read_bytes
from fuzzvm.files.writing import write
from fuzzvm.realkernel.build import MAX_TEXT, BuiltKernel, guest_sources
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.outcome import Outcome

_README = """\
{headline}

Linux {release} for {arch}, {page_size} pages, {levels} levels{changes}; replayed {times} times under QEMU (TCG).

schedule.toml     the schedule, as `fuzzvm explain` and `fuzzvm replay` read it
story.txt         what the model says happens
results.ktap      how each replay ended, with KASAN's reports
console.log       what the guest of one replay printed
config            the kernel's configuration
guest/            what the guest runs: its program and module in C, and the script of its calls

To see it again, build a kernel from the same source and replay:

    fuzzvm kernel build --tree LINUX --arch {arch} --page-size {page_size} --levels {levels}{options} -o OUT
    fuzzvm kernel replay schedule.toml --kernel OUT
"""


def check(folder: Path) -> None:
    """Raise RealKernelError where a folder is there already: nothing is written over."""
    if folder.exists() or folder.is_symlink():
        raise RealKernelError(f"{folder} is there already: name a new folder")


def save(folder: Path, case: Path, kernel: BuiltKernel, outcome: Outcome, times: int, texts: Mapping[str, str]) -> None:
    """Write the folder, whole or not at all. `texts` are further files by name.

    `outcome` is that of the replay whose console is kept. Raises RealKernelError and FileError.
    """
    check(folder)
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
        options="".join(parts),
    )
    guest = guest_sources()
    names = [path for path in sorted(guest.rglob("*")) if path.is_file() and path.suffix != ".config"]
    files: dict[str, str | bytes] = {
        "README": readme,
        "schedule.toml": read_bytes(case, MAX_TEXT),
        "console.log": "".join(f"{line}\n" for line in outcome.console),
        "config": kernel.config(),
        "guest/script": "".join(f"{line}\n" for line in outcome.script),
        **{f"guest/{path.relative_to(guest)}": read_bytes(path, MAX_TEXT) for path in names},
        **texts,
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise RealKernelError(f"{folder}: {error.strerror}") from error
    try:
        for name, content in files.items():
            write(half / name, content, own_name=True)
        half.chmod(0o777 & ~_umask())
        half.rename(folder)
    except OSError as error:
        raise RealKernelError(f"{folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _umask() -> int:
    held = os.umask(0o77)
    os.umask(held)
    return held
