"""Images: bytes, names, tables, types and lines, of the small kernel."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fuzzvm.compiled import manifest
from fuzzvm.compiled.arm64.image import branch_target
from fuzzvm.compiled.closure import instructions
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image, load
from fuzzvm.compiled.records import Symbol
from fuzzvm.kbuild.arch import ARM64
from tests.compiled import small

pytestmark = small.needs_compiler
NOP, BRK_800 = 0xD503201F, 0xD4210000
STORE = 0xF9000002
"""str x2, [x0]"""


def code(image: Image, name: str) -> list[int]:
    function = image.function(name)
    return [image.read_code(address) for address in range(function.address, function.address + function.size, 4)]


def test_code_is_what_the_disassembler_of_the_distribution_says(small_image: Image) -> None:
    listing = subprocess.run(
        [f"{ARM64.cross}objdump", "-d", str(small_image.folder / manifest.IMAGE)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = {}
    for line in listing.splitlines():
        address, _, rest = line.strip().partition(":\t")
        if rest:
            words[int(address, 16)] = int(rest.split()[0], 16)
    assert len(words) > 800
    # one of them is data
    assert [word for address, word in words.items() if not small_image.is_code(address)] == [0xDEADBEEF]
    assert all(small_image.read_code(address) == word for address, word in words.items() if word != 0xDEADBEEF)


def test_every_name_that_is_not_there_has_an_address_of_its_own(small_image: Image) -> None:
    missing = [symbol for symbol in small_image.symbols if not symbol.defined]
    assert {"__free_pages", "_printk", "rwsem_wake", "jump_label_update", "alt_cb_patch_nops"} <= {
        s.name for s in missing
    }
    assert len({symbol.address for symbol in missing}) == len(missing)
    bases = [symbol.address for symbol in missing if symbol.kind == "function"]
    assert len(bases) >= 7
    for symbol in missing:
        assert small_image.symbol_at(symbol.address) == symbol
        with pytest.raises(ImageError, match=f"{symbol.name} is not in the image"):
            small_image.read(symbol.address, 4)
        with pytest.raises(ImageError, match="no code stands at"):
            small_image.read_code(symbol.address)


def test_calls_lead_to_the_functions_that_they_name(small_image: Image) -> None:
    calls = set()
    free = small_image.function("free_table")
    for address in range(free.address, free.address + free.size, 4):
        word = small_image.read_code(address)
        if word >> 26 == 0b100101:
            target = branch_target(word, address)
            assert target is not None
            calls.add(small_image.name_at(target))
    assert "__warn_printk" in calls


def test_data_is_as_at_boot(small_image: Image) -> None:
    init_mm, of = small_image.variable("init_mm")
    assert of.size == init_mm.size == small_image.types.size("mm_struct")
    root = small_image.symbol("swapper_pg_dir")
    assert int.from_bytes(small_image.read(init_mm.address, 8), "little") == root.address
    assert root.size == 4096 and root.address % 4096 == 0 and small_image.read(root.address, 4096) == bytes(4096)
    wait_list = init_mm.address + small_image.types.offset("mm_struct", "mmap_lock", "wait_list")
    assert int.from_bytes(small_image.read(wait_list, 8), "little") == wait_list
    start, of = small_image.variable("memstart_addr")
    assert small_image.read(start.address, 8) == b"\xff" * 8 and of.signed and of.size == 8
    level, _ = small_image.variable("debug_level")
    assert small_image.read(level.address, 4) == bytes(4)
    key, of = small_image.variable("huge_vmap_disabled")
    assert str(of) == "struct static_key" and key.size == 16


def test_nothing_stands_outside(small_image: Image) -> None:
    last = max(small_image.sections, key=lambda section: section.end)
    for address in (0, 0x1000, last.end, (1 << 64) - 1):
        assert small_image.section_at(address) is None and small_image.symbol_at(address) is None
        with pytest.raises(ImageError, match="has nothing at"):
            small_image.read(address, 1)
    text = next(section for section in small_image.sections if section.executable)
    with pytest.raises(ImageError, match="has nothing at"):
        small_image.read(text.end - 2, 4)
    with pytest.raises(ImageError, match="no code"):
        small_image.read_code(text.address + 2)
    data, _ = small_image.variable("init_mm")
    with pytest.raises(ImageError, match="no code"):
        small_image.read_code(data.address)


def test_several_functions_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    marker = "static inline void note("
    twice = (
        "static noinline void *populate(void *from) { return from + debug_level; }\n"
        "void *twice(void *from) { return populate(from) + 1; }\n"
    )
    edits = {"mm/ptdump.c": (marker, twice + marker)}
    image = load(small.build_image(tmp_path, edits))
    assert {symbol.unit for symbol in image.symbols_named("populate")} == {"mm/vmalloc.c", "mm/ptdump.c"}
    with pytest.raises(ImageError, match=r"several populate: in mm/(vmalloc|ptdump)\.c, mm/"):
        image.function("populate")
    found = {unit: image.function("populate", unit) for unit in ("mm/vmalloc.c", "mm/ptdump.c")}
    assert found["mm/vmalloc.c"].address != found["mm/ptdump.c"].address
    assert str(image.signature(found["mm/vmalloc.c"])) == "int populate(u64 *entry)"
    assert str(image.signature(found["mm/ptdump.c"])) == "void *populate(void *from)"


def test_a_function_that_is_inlined_is_said_to_be(small_image: Image) -> None:
    with pytest.raises(ImageError, match="the image has no vmap_try_huge_pmd: the compiler has inlined it in vmap"):
        small_image.function("vmap_try_huge_pmd")
    with pytest.raises(ImageError, match=r"the image has no frobnicate$"):
        small_image.function("frobnicate")
    with pytest.raises(ImageError, match="__free_pages is not in the image: give its object by --object"):
        small_image.function("__free_pages")
    with pytest.raises(ImageError, match="init_mm is no function"):
        small_image.function("init_mm")


def test_of_equal_functions_the_compiler_says_less(small_image: Image) -> None:
    """gcc makes one of two (-fipa-icf), and the debug information has no function at the other."""
    same = small_image.function("pud_set_huge")
    assert same.unit == "arch/arm64/mm/mmu.c" and same.size == small_image.function("pmd_set_huge").size
    assert small_image.describe(same.address + 8).startswith("pud_set_huge+0x8 (arch/arm64/mm/mmu.c:")
    (frame,) = small_image.frames(same.address + 8)
    assert (frame.function, frame.file, frame.inlined) == ("pud_set_huge", same.unit, False)


def test_what_a_compiler_renamed_is_found_by_the_name_in_the_source(small_image: Image) -> None:
    clone = Symbol("walk.constprop.0.isra.1", 0, 4, "function")
    assert small_image.source_name(clone) == "walk" and small_image.is_clone(clone)
    with pytest.raises(ImageError, match="whose parameters the compiler may have changed"):
        small_image.signature(clone)


def test_sites_of_static_keys(small_image: Image) -> None:
    assert {site.branch for site in small_image.jump_sites} == {False, True}
    for site in small_image.jump_sites:
        function = "huge_vmap_is_disabled" if site.branch else "vmap_range_noflush"
        holder = small_image.symbol_at(site.code)
        assert holder is not None and holder.name == function
        assert small_image.name_at(site.key) == "huge_vmap_disabled"
        assert small_image.read_code(site.code) == NOP
        assert small_image.symbol_at(site.target) == holder and small_image.is_code(site.target)


def test_bugs_and_warnings_are_where_the_source_has_them(small_image: Image) -> None:
    assert len(small_image.bugs) == 4
    for address, bug in small_image.bugs.items():
        assert small_image.read_code(address) == BRK_800
        line = (small.SOURCES / bug.file).read_text().splitlines()[bug.line - 1]
        assert ("WARN_ON(" if bug.warning else "BUG();") in line
        # of a macro that stands in a header the line is the header's, or that of its use
        assert any((bug.file, bug.line) == (frame.file, frame.line) for frame in small_image.frames(address))


@pytest.mark.parametrize("atomics", ["lse", "ll-sc"])
def test_atomics_are_chosen_by_the_alternatives(atomics: str, small_image: Image, tmp_path: Path) -> None:
    image = small_image if atomics == "lse" else load(small.build_image(tmp_path, atomics=atomics))
    found = [alternative for alternative in image.alternatives if alternative.feature == "HAS_LSE_ATOMICS"]
    assert found and all(alternative.callback for alternative in found)
    for alternative in found:
        assert alternative.applied is (atomics == "lse")
        word = image.read_code(alternative.address)
        # a NOP falls through to the atomic instruction; a branch leads to the loop
        assert (word == NOP) is (atomics == "lse") and (word >> 26 == 0b000101) is (atomics == "ll-sc")
    assert image.manifest.atomics == atomics
    assert image.manifest.features == (["HAS_LSE_ATOMICS"] if atomics == "lse" else [])


def test_new_code_is_moved_to_where_it_replaces_the_old(small_image: Image, tmp_path: Path) -> None:
    image = load(small.build_image(tmp_path, features=("HAS_OTHER",)))
    before, after = code(small_image, "alternative_forms"), code(image, "alternative_forms")
    found = [alternative for alternative in image.alternatives if alternative.feature == "HAS_OTHER"]
    assert [(alternative.size, alternative.applied) for alternative in found] == [(8, True), (8, True)]
    start = image.function("alternative_forms").address
    for alternative in found:
        place = (alternative.address - start) // 4
        assert before[place : place + 2] == [NOP, NOP] and NOP not in after[place : place + 2]
    # ADRP and ADD come to the variable, from where they stand now
    place = found[0].address
    adrp, add = image.read_code(place), image.read_code(place + 4)
    offset = (adrp >> 5 & 0x7FFFF) << 2 | adrp >> 29 & 3
    page = (place & -4096) + ((offset - (1 << 21) if offset >> 20 else offset) << 12)
    assert page + (add >> 10 & 0xFFF) == image.symbol("memstart_addr").address
    # a branch inside of the new code stays inside, one out of it still leads where it did
    place = found[1].address
    assert branch_target(image.read_code(place), place) == place + 8
    target = branch_target(image.read_code(place + 4), place + 4)
    assert target == image.function("pmd_set_huge").address


def test_data_between_instructions_is_no_code(small_image: Image) -> None:
    function = small_image.function("data_in_text")
    places = range(function.address, function.address + function.size, 4)
    (data,) = [address for address in places if not small_image.is_code(address)]
    assert small_image.read(data, 4) == bytes.fromhex("efbeadde")
    with pytest.raises(ImageError, match=r"no code stands at .*data_in_text\+"):
        small_image.read_code(data)
    assert data not in {line.address for line in instructions(small_image, function)}
    # the load behind it may fault, and goes on behind itself
    assert list(small_image.exceptions) == [data + 4] and small_image.exceptions[data + 4].fixup == data + 8


def test_code_that_a_function_of_nobody_writes_is_not_read(small_image: Image, tmp_path: Path) -> None:
    name = "written_at_boot"
    assert NOP in code(small_image, name)
    image = load(small.build_image(tmp_path, features=("HAS_WRITTEN",)))
    with pytest.raises(ImageError, match=r"written_at_boot.* is written at boot by write_at_boot"):
        code(image, name)


def test_types(small_image: Image) -> None:
    types = small_image.types
    assert types.offset("mm_struct", "mmap_lock", "owner", "counter") == 24
    init_mm = types.variable("init_mm")
    assert init_mm.path_at(24) == ".mmap_lock.owner.counter" and init_mm.path_at(0) == ".pgd"
    with pytest.raises(ImageError, match="struct rw_semaphore has nothing at offset 20"):
        init_mm.path_at(36)
    assert types.named("struct page").path_at(48) == ".unused[2]"
    assert types.offset("rw_semaphore", "wait_list") == 24 and types.size("rw_semaphore") == 40
    # members of a union and of a structure without a name are the outer one's
    assert types.offset("page", "lru") == 8 and types.size("page") == 64
    order, table = types.member("page", "order"), types.member("page", "table")
    assert (order.first_bit, order.bits, table.first_bit, table.bits) == (128, 8, 136, 1)
    assert types.offset("page", "unused", 2) == 48 and types.member("page", "unused").type.counts == (4,)
    assert types.size("pmd_t") == 8 and types.offset("pmd_t", "pmd") == 0
    assert types.named("ptdump_level").values == {
        "LEVEL_PGD": 0, "LEVEL_PUD": 1, "LEVEL_PMD": 2, "LEVEL_PTE": 3, "LEVEL_NONE": -1,
    }  # fmt: skip
    assert types.enumerator("LEVEL_NONE") == -1
    ops = types.aggregate("mm_walk_ops")
    assert str(ops.members[2].type) == "int (*)(pmd_t *, u64, u64, struct mm_walk *)"
    assert (
        str(types.function("vmap_page_range"))
        == "int vmap_page_range(u64 addr, u64 end, phys_addr_t phys, pgprot_t prot)"
    )
    assert str(types.function("_printk")).endswith(", ...)")
    assert str(types.function("static_key_enable")) == "void static_key_enable(struct static_key *key)"
    signature = small_image.signature(small_image.function("pmd_free_pte_page"))
    assert [(given.name, given.type.resolved().kind, given.type.size) for given in signature.parameters] == [
        ("pmd", "pointer", 8),
        ("addr", "base", 8),
    ]
    # one that is equal to another, of which the compiler says nothing
    assert str(types.function("pud_set_huge")) == "int pud_set_huge(pud_t *pud, phys_addr_t phys, pgprot_t prot)"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (("mm_struct", "frob"), "mm_struct has no member frob"),
        (("mm_struct", "mmap_lock", "frob"), r"mm_struct\.mmap_lock has no member frob"),
        (("frob", "x"), "does not have the type frob"),
        (("mm_struct", "flags", 1), r"mm_struct\.flags is no array"),
        (("pgd_t", "pgd", "x"), "has no members"),
    ],
)
def test_what_no_type_has_is_said(small_image: Image, path: tuple[str, ...], says: str) -> None:
    with pytest.raises(ImageError, match=says):
        small_image.types.member(*path)


def test_what_has_no_size_and_what_is_not_there(small_image: Image) -> None:
    types = small_image.types
    with pytest.raises(ImageError, match="the size of void is not known"):
        _ = types.function("_printk").parameters[0].type.target.size + types.function("vunmap_range").result.size
    for ask in (types.function, types.variable, types.named, types.enumerator):
        with pytest.raises(ImageError, match="frob"):
            ask("frob")


def test_lines_have_what_is_inlined_innermost_first(small_image: Image) -> None:
    function = small_image.function("pmd_free_pte_page")
    chains = {
        tuple(frame.function for frame in small_image.frames(address))
        for address in range(function.address, function.address + function.size, 4)
    }
    assert ("flush_tlb_kernel_pgtable", "pmd_free_pte_page") in chains
    assert all(chain[-1] == "pmd_free_pte_page" for chain in chains)
    tlbi = next(a for a in range(function.address, function.address + function.size, 4) if _is_tlbi(small_image, a))
    inner, outer = small_image.frames(tlbi)
    source = (small.SOURCES / "arch/arm64/mm/mmu.c").read_text().splitlines()
    assert inner.inlined and not outer.inlined and inner.file == outer.file == "arch/arm64/mm/mmu.c"
    assert "tlbi vaae1is" in source[inner.line - 1] and "flush_tlb_kernel_pgtable(addr);" in source[outer.line - 1]
    assert small_image.describe(tlbi).startswith(
        f"pmd_free_pte_page+{tlbi - function.address:#x} (arch/arm64/mm/mmu.c:"
    )
    assert small_image.frames(0) == () and small_image.lines.line(0) == ("", 0)


def _is_tlbi(image: Image, address: int) -> bool:
    # SYS with CRn 8
    return image.read_code(address) & 0xFFF8F000 == 0xD5088000


def test_loading_does_not_read_what_is_not_asked_for(small_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_folder, folder)
    (folder / "index/lines.json").write_text("{")
    image = load(folder)
    assert image.types.size("page") == 64 and STORE in code(image, "pmd_set_huge")
    with pytest.raises(ImageError, match=r"lines\.json: .*: build the image again"):
        image.frames(0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 0}', '{"format": 1}'])
def test_a_folder_that_no_build_came_to_its_end_in(text: str, tmp_path: Path) -> None:
    (tmp_path / manifest.MANIFEST).write_text(text)
    with pytest.raises(ImageError, match=r"holds (no image|an image of another version)"):
        load(tmp_path)


def test_an_image_without_its_parts(small_folder: Path, tmp_path: Path) -> None:
    shutil.copy(small_folder / manifest.MANIFEST, tmp_path)
    with pytest.raises(ImageError, match=r"lacks image\.elf or index"):
        load(tmp_path)
    data = json.loads((tmp_path / manifest.MANIFEST).read_text())
    (tmp_path / manifest.MANIFEST).write_text(json.dumps(data | {"arch": "vax"}))
    (tmp_path / manifest.IMAGE).write_bytes(b"")
    (tmp_path / manifest.INDEX).mkdir()
    with pytest.raises(ImageError, match="no images of 'vax', only of arm64"):
        load(tmp_path)
