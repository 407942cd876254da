"""A program that takes QEMU's place in tests: says on its console what FAKE_QEMU_SAYS holds, then hangs or ends."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

_PROGRAM = """#!{python} -S
import os, sys, time
for line in os.environ.get("FAKE_QEMU_SAYS", "").split("|"):
    print(line, flush=True)
if "FAKE_QEMU_PID" in os.environ:
    open(os.environ["FAKE_QEMU_PID"], "w").write(str(os.getpid()))
if "FAKE_QEMU_ACCEPTS" in os.environ:
    import socket
    print("initramfs:", open(sys.argv[sys.argv.index("-initrd") + 1]).read(), flush=True)
    number = next(part for word in sys.argv for part in word.split(",") if part.startswith("fd="))[3:]
    listening = socket.socket(fileno=int(number))
    peer, _ = listening.accept()
    peer.sendall(b"hello")
if "FAKE_QEMU_ENDS" in os.environ:
    sys.exit("qemu: no such machine")
time.sleep(1_000_000)
"""


def install(folder: Path) -> Path:
    """Write it under the names that QEMU has; return the folder, to be put into PATH."""
    for name in ("qemu-system-x86_64", "qemu-system-aarch64"):
        program = folder / name
        program.write_text(_PROGRAM.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def install_kernel(folder: Path) -> Path:
    """Write a folder as `fuzzvm kernel build` makes one, with nothing in it that could boot."""
    (folder / "kernel.json").write_text(
        '{"arch": "x86_64", "page_size": "4K", "levels": 4, "release": "6.12.0", "revert_fix": true,'
        ' "without": ["promotion-lock"], "patches": [], "left_out": [], "key": "0", "seconds": 1.0}'
    )
    (folder / "image").write_bytes(b"")
    (folder / "config").write_text("CONFIG_KASAN_SHADOW_OFFSET=0xdffffc0000000000\n")
    (folder / "initramfs").write_bytes(b"")
    names = ("vmap_page_range", "vunmap_range", "__get_vm_area_caller", "init_top_pgt")
    lines = [f"{0xFFFFFFFF81000000 + 256 * n:x} T {name}" for n, name in enumerate(names)]
    (folder / "System.map").write_text("\n".join(lines) + "\n")
    return folder
