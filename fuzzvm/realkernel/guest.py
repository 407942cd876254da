"""A booted guest that has been told what to do: the script, and what of the console is waited for."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.qemu import MEMORY, Qemu

BOOT_SECONDS = 180.0
_RESERVING = "2G"
"""Memory of a guest that sets some aside at the highest multiple of a gigabyte: that is plan.PHYSICAL.

The last megabytes hold the initramfs.
"""
_KASAN = "BUG: KASAN:"


class Guest:
    """A guest, from power-on; a context that ends it. `calls` are the script's lines after the module is loaded.

    `reserved` is how many bytes of memory, at a multiple of a gigabyte, are set aside for the calls.
    """

    def __init__(
        self, kernel: BuiltKernel, calls: Iterable[str], cpus: int, *, reserved: int = 0, binary: str | None = None
    ) -> None:
        self.kernel = kernel
        self.symbols = kernel.symbols()
        script = "\n".join([self._insmod(), *calls]) + "\n"
        memory = MEMORY
        # where the number of levels is no option, the processor that QEMU emulates has five
        append = ["no5lvl"] if (kernel.arch, kernel.levels) == ("x86_64", 4) else []
        if reserved:
            memory = _RESERVING
            append.append(f"reserve_mem={reserved}:1G:fuzzvm")
        told = kernel.initramfs(script)
        extra = " ".join(append)
        self.qemu = Qemu(kernel.facts, kernel.image, told, cpus, memory=memory, append=extra, binary=binary)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.qemu.close()

    def _insmod(self) -> str:
        parameters = {
            "vmap_page_range_at": self.symbols.address("vmap_page_range"),
            "vunmap_range_at": self.symbols.address("vunmap_range"),
            "get_vm_area_at": self.symbols.address("__get_vm_area_caller"),
        }
        # arm64 has them in a form that the module's calls are not for
        optional = ("set_memory_ro", "set_memory_rox") if self.kernel.arch == "x86_64" else ()
        optional = (*optional, "kasan_add_zero_shadow", "kasan_remove_zero_shadow")
        parameters |= {f"{name}_at": self.symbols.address(name) for name in optional if name in self.symbols}
        return "insmod " + " ".join(f"{name}={address:#x}" for name, address in parameters.items())

    def wait(self, said: str, seconds: float = BOOT_SECONDS) -> str:
        """Wait until the guest's program has said a line that begins so; return the line.

        Raises RealKernelError where it says that something failed, or does not come to it in time.
        """
        line = self.qemu.wait_for(lambda line: line.startswith((f"fuzzvm: {said}", "fuzzvm: failed")), seconds)
        if line.startswith("fuzzvm: failed"):
            raise RealKernelError(f"the guest could not do what it was told: {line.removeprefix('fuzzvm: failed: ')}")
        return line

    def gate(self) -> tuple[int, int]:
        """Return the address of the module's gate, once it is loaded, and that of its array of preemption counts.

        The second one is 0 for a kernel that does not preempt what is in the kernel.
        """
        gate, counts = self.wait("gate").split()[2:4]
        return int(gate, 16), int(counts, 16)

    def alive(self) -> None:
        """Raise RealKernelError where QEMU has ended or the guest could not do what it was told."""
        self.qemu.alive()
        failed = next((line for line in self.qemu.lines() if line.startswith("fuzzvm: failed")), None)
        if failed is not None:
            raise RealKernelError(f"the guest could not do what it was told: {failed.removeprefix('fuzzvm: failed: ')}")

    def shown(self, name: str, seconds: float) -> list[str]:
        """Wait for what `show NAME` prints, and return its lines."""
        self.wait(f"shown {name}", seconds)
        lines = self.qemu.lines()
        first = lines.index(f"fuzzvm: show {name}")
        return lines[first + 1 : lines.index(f"fuzzvm: shown {name}")]

    def report(self, start: int) -> list[str]:
        """Return KASAN's first report from line `start` of the console on; none before it has been printed whole."""
        lines = self.qemu.lines()[start:]
        starts = [number for number, line in enumerate(lines) if _KASAN in line]
        if not starts:
            return []
        ends = [number for number, line in enumerate(lines) if number > starts[0] and line.startswith("=" * 20)]
        return lines[starts[0] : ends[0]] if ends else []
