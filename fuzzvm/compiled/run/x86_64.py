"""Running x86_64 code: the psABI for calls, arch/x86 of Linux for its address space, its tasks and per-CPU memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.isa.engine import Fetch
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from fuzzvm.compiled.isa.liveness import Abi
from fuzzvm.compiled.isa.private import TrackedMemory
from fuzzvm.compiled.isa.slots import PC, SP
from fuzzvm.compiled.records import Symbol
from fuzzvm.compiled.run.arch import Layout
from fuzzvm.compiled.run.private import SIZE, TASK
from fuzzvm.compiled.run.stack import frame_records
from fuzzvm.compiled.x86_64.decode import LONGEST, decode, size_of
from fuzzvm.compiled.x86_64.registers import COUNT, FLAGS, GS_BASE, IF, RAX, RBP, RBX, RCX, RDI, RDX, RSI, UNDEFINED
from fuzzvm.machine.ops import Barrier

_WORD = 8
_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map. A CPU's own memory has a byte for each address from here on: those of per-CPU variables."""
_PAGE_OFFSET = 0xFFFF_8880_0000_0000
_VMALLOC = 0xFFFF_C900_0000_0000
_VMEMMAP = 0xFFFF_EA00_0000_0000
_PHYS = 0x4000_0000
"""The physical address of the first page that is used; any multiple of 1 GB would do."""
_PERCPU = ".data..percpu"
_PRESENT, _PSE = 1 << 0, 1 << 7
_ADDRESS = (1 << 52) - 1


class X8664:
    """x86_64, for running code: see RunArch."""

    abi = Abi(
        count=COUNT,
        arguments=(RDI, RSI, RDX, RCX, 8, 9),
        results=frozenset({RAX, RDX}),
        callee_saved=frozenset({RBX, RBP, SP, *range(12, 16)}),
        system=frozenset({GS_BASE, IF}),
        variadic=frozenset({RAX}),
    )
    flags = frozenset(FLAGS)
    undefined = UNDEFINED
    own_size = 1 << 31
    # loads are in order, and so are stores: LFENCE and SFENCE add nothing for memory that is cached
    barriers: Mapping[str, Barrier] = MappingProxyType(
        {"mfence": Barrier.DMB_ISH, "lfence": Barrier.DMB_ISHLD, "sfence": Barrier.DMB_ISHST, "wbinvd": Barrier.DMB_ISH}
    )
    thunks = frozenset(
        {
            "preempt_schedule_thunk",
            "preempt_schedule_notrace_thunk",
            "__SCT__preempt_schedule",
            "__SCT__preempt_schedule_notrace",
        }
    )

    def fetch(self, image: Image, function_at: Callable[[int], str | None]) -> Fetch:
        """Return what decodes a whole function where an instruction of it is asked for.

        Where instructions begin follows from the first; at other addresses nothing is decoded.
        """
        known: dict[int, Instruction] = {}
        swept: set[int] = set()

        def fetch(address: int) -> Instruction:
            symbol = image.symbol_at(address)
            if symbol is None or symbol.kind != "function" or not symbol.defined:
                raise ImageError(f"no function stands at {address:#x} ({image.name_at(address)})")
            if symbol.address not in swept:
                swept.add(symbol.address)
                for start, code in _pieces(image, symbol):
                    try:
                        known.update((step.address, step) for step in decode(code, start, symbol.name))
                    except UnsupportedInstructionError:
                        # said where it is run
                        continue
            found = known.get(address)
            if found is not None:
                return found
            if any(start == address for start, _ in _pieces(image, symbol)):
                return decode(image.code(address, LONGEST), address, function_at(address))[0]
            raise ImageError(f"no instruction begins at {address:#x} ({image.name_at(address)})")

        return fetch

    def addresses(self, image: Image, function: Symbol) -> Iterable[int]:
        """Return the addresses of a function's instructions and of their steps."""
        for start, code in _pieces(image, function):
            try:
                yield from (step.address for step in decode(code, start))
            except UnsupportedInstructionError:
                continue

    def layout(self, image: Image) -> Layout:
        """Return the address space of 4 levels (arch/x86/include/asm/page_64_types.h)."""
        shift = image.manifest.page_shift
        return Layout(
            shift,
            _PAGE_OFFSET + _PHYS,
            _VMEMMAP + (_PHYS >> shift << 6),
            _PHYS,
            image.sections[0].address - _KERNEL_MAP,
        )

    def boot_values(self, image: Image, layout: Layout) -> dict[str, bytes]:
        """Return what head64.c and init_64.c have set where there are 4 levels and nothing is randomised."""
        values = {
            "page_offset_base": (8, _PAGE_OFFSET),
            "vmalloc_base": (8, _VMALLOC),
            "vmemmap_base": (8, _VMEMMAP),
            "phys_base": (8, 0),
            "pgdir_shift": (4, 39),
            "ptrs_per_p4d": (4, 1),
            "__pgtable_l5_enabled": (4, 0),
            "__supported_pte_mask": (8, (1 << 64) - 1),
            "__default_kernel_pte_mask": (8, (1 << 64) - 1),
            # init_64.c, after mark_rodata_ro(); init.c; tlb.c
            "kernel_set_to_readonly": (4, 1),
            "direct_gbpages": (4, 1),
            "tlb_single_page_flush_ceiling": (8, 33),
        }
        found = {name: value.to_bytes(size, "little") for name, (size, value) in values.items()}
        if image.symbols_named("boot_cpu_data") and image.features:
            array = image.types.member("cpuinfo_x86", "x86_capability")
            bits = sum(1 << number for number in image.features)
            found[f"boot_cpu_data+{array.offset}"] = bits.to_bytes(array.size, "little")
        return found

    def table_at(self, entry: int, page_shift: int) -> int | None:
        """Return the address in an entry that is no block (Intel SDM vol. 3A 4.5)."""
        return entry & _ADDRESS & -(1 << page_shift) if entry & (_PRESENT | _PSE) == _PRESENT else None

    def not_followed(self, image: Image, va: int) -> str:
        """Return nothing: tables are not changed through the fixmap."""
        return ""

    def leaf(self, entry: int) -> str:
        """Return what an entry is that leads to no table."""
        if not entry & _PRESENT:
            return ""
        return "block" if entry & _PSE else "leaf"

    def cpu(self, image: Image, base: int) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
        """Return where per-CPU memory is, `current`, and a task that may be preempted."""
        offset = base - _KERNEL_MAP & (1 << 64) - 1
        cells: dict[int, tuple[int, int]] = {}
        for name, value in (
            ("const_current_task", base + TASK),
            ("current_task", base + TASK),
            ("this_cpu_off", offset),
            ("cpu_number", (base >> 31) & 7),
        ):
            for symbol in image.symbols_named(name):
                cells[offset + symbol.address & (1 << 64) - 1] = 8 if name != "cpu_number" else 4, value
        for symbol in image.symbols_named("__preempt_count"):
            # a count of 0, with PREEMPT_NEED_RESCHED, the highest bit, inverted (arch/x86/include/asm/preempt.h)
            size = image.types.variable("__preempt_count").size
            cells[offset + symbol.address & (1 << 64) - 1] = size, 1 << 8 * size - 1
        return {GS_BASE: offset, IF: 1}, cells

    def initial(self, image: Image) -> Callable[[int], int]:
        """Return the content of per-CPU variables at boot. Raises ImageError for one that the image does not define."""

        def initial(offset: int) -> int:
            if offset < SIZE:
                return 0
            address = _KERNEL_MAP + offset
            section = image.section_at(address)
            if section is None or section.name != _PERCPU:
                raise ImageError(f"per-CPU variable {image.name_at(address)} is read, which the image does not define")
            return image.read(address, 1)[0]

        return initial

    def begin(self, x: list[int], memory: TrackedMemory, stack: int, returns_to: int) -> None:
        """Push the return address; the stack is aligned before that."""
        x[SP] = stack - _WORD
        memory.store(x[SP], _WORD, returns_to, 0, 0)

    def return_address(self, x: Sequence[int], memory: TrackedMemory) -> int:
        """Return what the stack pointer points to."""
        return _word(memory, x[SP])

    def leave(self, x: list[int], memory: TrackedMemory) -> None:
        """Pop the return address."""
        x[PC] = self.return_address(x, memory)
        x[SP] += _WORD

    def return_addresses(self, x: Sequence[int], memory: TrackedMemory, image: Image, *, begun: bool) -> list[int]:
        """Return the return addresses of the frames, and before them that of a function that has none yet."""
        records = frame_records(memory, x[RBP])
        inner = x[SP] if begun else self._unframed(x, image)
        cell = memory.cells.get(inner)
        return records if cell is None else [cell[1], *records]

    def _unframed(self, x: Sequence[int], image: Image) -> int:
        """Return where the return address is of a function that has no frame where a CPU stands in it; 0 if it has."""
        symbol = image.symbol_at(x[PC])
        if symbol is None or not symbol.defined or symbol.kind != "function":
            return 0
        pushed = False
        for line in image.arch.disassemble(image.read(symbol.address, symbol.size), symbol.address):
            here = line.address <= x[PC] < line.address + line.size
            if here or line.address > x[PC]:
                return x[SP] + _WORD * (pushed and line.mnemonic != "ret")
            text = f"{line.mnemonic} {line.operands}"
            if text == "mov rbp, rsp":
                return x[SP] if self._is_return(x[PC], image) else 0
            pushed = pushed or text == "push rbp"
        return 0

    def _is_return(self, address: int, image: Image) -> bool:
        line = next(iter(image.arch.disassemble(image.read(address, 1), address)), None)
        return line is not None and line.mnemonic == "ret"


ARCH = X8664()


def _word(memory: TrackedMemory, address: int) -> int:
    found = memory.load(address, _WORD)
    if found is None:
        raise ImageError(f"the return address is read from {address:#x}, which is no stack")
    return int(found[0])


def _pieces(image: Image, function: Symbol) -> Iterable[tuple[int, bytes]]:
    """Yield the addresses and bytes of a function's instructions; bytes that are none are passed over one by one."""
    address, end = function.address, function.address + function.size
    while address < end:
        code = image.code(address, min(LONGEST, end - address))
        size = size_of(code)
        if size:
            yield address, code[:size]
        address += size or 1
