"""A finding as a program for a kernel: a module that makes the scenario's calls on all its CPUs at once, for ever.

The C of the calls and of the readers is that of the guest of `fuzzvm kernel` (harnesses/kernel/), and so are the places
of the scenario's pages. Calls that walk or look up come from user space, all others from threads of the kernel.
"""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.store import to_text
from fuzzvm.export.errors import ExportError
from fuzzvm.export.stress_words import Told, header, report_of
from fuzzvm.files.reading import read_text
from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel.build import MAX_TEXT, guest_sources
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.places import Window
from fuzzvm.realkernel.plan import PHYSICAL, layout, operations
from fuzzvm.scenario.calls import (
    Call,
    CallFunction,
    SetMemoryRo,
    SetMemoryRox,
    Vmalloc,
    VmallocHuge,
    Vmap,
    Vunmap,
)
from fuzzvm.scenario.scenario import Scenario

NAME = "fuzzvm_stress"
RUNNABLE = frozenset({"run.sh"})
"""The files that are programs."""
_LARGE = 64 << 20
_INSTANCES = 64
_INSTANCES_OF_LARGE = 4
"""How often the scenario's range is laid out by default, and how often where it is larger than _LARGE."""
_SLOTS = 16


def stress_program(case: TestCase, told: Told) -> dict[str, str]:
    """Return the files of the program by their names.

    Raises ExportError for calls that cannot be driven, named, and for an error that no kernel reports.
    """
    scenario = case.scenario
    report_of(told.error)
    _check(scenario)
    window = layout(case, 0)
    slots: dict[str, int] = {}
    setup = _setup(scenario, window, slots)
    cpus = [[_operation(call, window, slots) for call in calls] for calls in scenario.cpus]
    if len(slots) > _SLOTS:
        raise ExportError(f"{len(slots)} areas of vmalloc are more than {_SLOTS}, which the program has room for")
    reads = {cpu: found for cpu, calls in enumerate(cpus) if (found := [one for one in calls if _is_read(one)])}
    makes = {cpu: found for cpu, calls in enumerate(cpus) if (found := [one for one in calls if not _is_read(one)])}
    if not makes or sum(map(bool, cpus)) < 2:
        what = "no CPU changes page tables" if not makes else "one CPU alone makes calls"
        raise ExportError(f"{what}: there is no race to drive")
    comment = header(scenario, told, _notes(scenario, reads, makes))
    module = _template("stress/fuzzvm_stress.c")
    module = module.replace("@HEADER@", comment).replace("@CALLS@", _included("module/calls.h"))
    reader = _template("stress/reader.c").replace("@READERS@", _included("readers.h"))
    return {
        f"{NAME}.c": module.replace("@SCENARIO@", _scenario_in_c(window, scenario, setup, makes, len(slots))),
        "reader.c": reader.replace("@OPERATIONS@", _operations_in_c(_span(window, scenario), reads)),
        **{name: _template(f"stress/{name}") for name in ("Makefile", "run.sh")},
        "schedule.toml": to_text(case),
    }


def _check(scenario: Scenario) -> None:
    if scenario.beyond_calls:
        raise ExportError(f"{scenario.beyond_calls} cannot be driven by a program")
    for call in scenario.every_call:
        if isinstance(call, Vmap) and call.max_page_shift == "contpte":
            raise ExportError(f"{call}: contiguous blocks cannot be driven by a program")
        if isinstance(call, SetMemoryRo | SetMemoryRox) and scenario.arch != "x86_64":
            raise ExportError(f"{call.name} of {scenario.arch} wants areas of vmalloc's own: it cannot be driven so")


def _setup(scenario: Scenario, window: Window, slots: dict[str, int]) -> list[str]:
    """Return the calls at boot; page by page where they only make tables, as a PUD has 262,144 pages."""
    maps = [call for call in scenario.setup if isinstance(call, Vmap)]
    contents = any(call.changes_attr or call.looks_up or call.collapses for call in scenario.every_call)
    by_pages = not contents and all(call.max_page_shift == "pte" for call in maps)
    found: list[str] = []
    for call in scenario.setup:
        if by_pages and isinstance(call, Vmap | Vunmap):
            found += [_of_page(call, number, window, slots) for number in range(call.nr_pages)]
        else:
            found.append(_operation(call, window, slots))
    return found


def _of_page(call: Vmap | Vunmap, number: int, window: Window, slots: dict[str, int]) -> str:
    """Return a call that is about one page alone, which is where the model's page is."""
    one = replace(call, page=call.page + number, nr_pages=1)
    if isinstance(one, Vmap):
        one = replace(one, phys_page=(call.page if one.phys_page < 0 else one.phys_page) + number)
    words = _operation(one, window, slots).split()
    # up to the model's next page it may be further
    return " ".join([*words[:2], f"{1 << window.geometry.page_shift:#x}", *words[3:]])


def _operation(call: Call, window: Window, slots: dict[str, int]) -> str:
    """Return a call as the guest's module has it, at addresses from 0 on."""
    if isinstance(call, CallFunction):
        raise ExportError(f"{call.function}(), which is called by its name, cannot be driven by a program")
    if isinstance(call, Vmalloc | VmallocHuge):
        slot = slots.setdefault(call.area, len(slots))
        return f"{call.name} {slot} {window.address(call.nr_pages):#x}"
    try:
        return operations(call, window, slots)
    except NoCounterpartError as error:
        raise ExportError(f"{call.name} cannot be driven by a program") from error


def _is_read(operation: str) -> bool:
    return operation.split()[0] in ("cat", "wx", "kcore")


def _span(window: Window, scenario: Scenario) -> int:
    """Return the size of an instance: a power of two that holds what the calls map, a PMD's block or more."""
    pages = [call.page + call.nr_pages for call in scenario.every_call if isinstance(call, Vmap | Vunmap)]
    return _power(max([window.block(Level.PMD), *(window.address(page) for page in pages)]))


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _notes(scenario: Scenario, reads: dict[int, list[str]], makes: dict[int, list[str]]) -> list[str]:
    """Return what of the scenario is not as it stands."""
    notes = []
    if both := sorted(reads.keys() & makes.keys()):
        named = " and ".join(f"CPU {cpu}" for cpu in both)
        notes.append(f"{named}: calls that read come from a process and all others from a thread, in no order.")
    if any(isinstance(call, Vmalloc | VmallocHuge) for call in scenario.every_call):
        notes.append("vmalloc chooses its own addresses: that they are the same each time is likely and not certain.")
    return notes


def _scenario_in_c(
    window: Window, scenario: Scenario, setup: list[str], makes: dict[int, list[str]], slots: int
) -> str:
    span = _span(window, scenario)
    # areas of vmalloc are wherever they are: there is one of each
    instances = 1 if slots else _INSTANCES if span <= _LARGE else _INSTANCES_OF_LARGE
    undo = ["do_vunmap(at, SPAN);"]
    if slots:
        undo += [f"if (slots[{slot}])\n\t\tdo_vfree({slot});" for slot in range(slots)]
        undo.append("vm_unmap_aliases();")
    lines = [
        f"#define SPAN {span:#x}UL",
        f"#define MEMORY {_memory(scenario, window):#x}UL",
        f"#define INSTANCES {instances}",
        f"#define THREADS {len(makes)}",
        "",
        "/* the page tables as the scenario begins with them */",
        *_function("setup", [_call(operation) for operation in setup]),
    ]
    for cpu, operations_ in makes.items():
        lines += ["", *_function(f"cpu{cpu}", [_call(operation) for operation in operations_])]
    return "\n".join(
        [
            *lines,
            "",
            "static void undo(unsigned long at)",
            "{",
            *(f"\t{statement}" for statement in undo),
            "}",
            "",
            "/* each thread is on the CPU of its number in the scenario */",
            f"static const unsigned int cpus[THREADS] = {{{', '.join(map(str, makes))}}};",
            f"static int (*const calls[THREADS])(unsigned long at) = {{{', '.join(f'cpu{cpu}' for cpu in makes)}}};",
        ]
    )


def _function(name: str, expressions: list[tuple[str, bool]]) -> list[str]:
    """Return a function of C that makes calls until one fails; each is its text, and whether it returns an error."""
    body = []
    for text, fails in expressions:
        body += [f"\terr = {text};", "\tif (err)", "\t\treturn err;"] if fails else [f"\t{text};"]
    if any(fails for _, fails in expressions):
        body[:0] = ["\tint err;", ""]
    return [f"static int {name}(unsigned long at)", "{", *body, "\treturn 0;", "}"]


def _call(operation: str) -> tuple[str, bool]:
    """Return a call of the guest's module in C, and whether it returns an error."""
    match operation.split():
        case ["vmap", start, size, physical, chunk, prot]:
            offset = int(physical, 16) - PHYSICAL
            return f'do_vmap(at + {start}UL, {size}UL, phys + {offset:#x}UL, {chunk}UL, "{prot}")', True
        case ["vunmap", start, size]:
            return f"do_vunmap(at + {start}UL, {size}UL)", False
        case ["set_memory_ro" | "set_memory_rox" as name, start, pages]:
            return f"do_set_memory({name}_at, at + {start}UL, {pages})", True
        case ["vmalloc" | "vmalloc_huge" as name, slot, size]:
            return f"do_vmalloc({slot}, {size}UL, {'true' if name == 'vmalloc_huge' else 'false'})", True
        case ["vfree", slot]:
            return f"do_vfree({slot})", False
        case ["vm_unmap_aliases"]:
            return "vm_unmap_aliases()", False
    raise ExportError(f"{operation.split()[0]} cannot be driven by a program")


def _memory(scenario: Scenario, window: Window) -> int:
    """Return how much memory is mapped: a power of two, a PMD's block or more."""
    maps = [call for call in scenario.every_call if isinstance(call, Vmap)]
    pages = [(call.page if call.phys_page < 0 else call.phys_page) + call.nr_pages for call in maps]
    return _power(max([window.block(Level.PMD), *(window.address(page) for page in pages)]))


def _operations_in_c(span: int, reads: dict[int, list[str]]) -> str:
    rows = [
        f"\t{{{cpu}, {{{', '.join(chr(34) + operation + chr(34) for operation in found)}, NULL}}}},"
        for cpu, found in reads.items()
    ]
    most = max(map(len, reads.values()), default=0) + 1
    return "\n".join(
        [
            f"#define SPAN {span:#x}UL",
            "",
            "static const struct {",
            "\tint cpu;",
            f"\tconst char *operations[{most}];",
            "} readers[] = {",
            *rows,
            "\t{-1, {NULL}},",
            "};",
        ]
    )


def _template(name: str) -> str:
    return read_text(guest_sources() / name, MAX_TEXT)


def _included(name: str) -> str:
    """Return a header without its licence, which the file has that it is put into."""
    return _template(name).partition("\n")[2].rstrip()
