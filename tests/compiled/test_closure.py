"""What functions of the small kernel reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.compiled.closure import close, instructions
from fuzzvm.compiled.image import Image, load
from tests.compiled import small

pytestmark = small.needs_compiler
DUMP = {"ptdump_pud_entry", "ptdump_pmd_entry", "ptdump_pte_entry", "ptdump_hole", "ptdump_walk_pgd"}
WALK = {"walk_page_range_debug", "down_write", "up_write"}


def reached(image: Image, *names: str, modelled: tuple[str, ...] = ()) -> set[str]:
    found = close(image, [image.function(name) for name in names], modelled)
    return {image.source_name(function) for function in found.functions}


def test_calls_jumps_and_addresses_of_functions_are_followed(small_image: Image) -> None:
    # ptdump_ops holds the addresses of four, and is reached by its own; note_page stands on the stack
    assert reached(small_image, "ptdump_walk") == {"ptdump_walk", "note_page", *DUMP, *WALK}
    assert reached(small_image, "ptdump_check_wx") == {"ptdump_check_wx", "note_page_wx", *DUMP, *WALK}


def test_the_boundary_is_what_is_not_there_and_what_is_modelled(small_image: Image) -> None:
    walk = close(small_image, [small_image.function("ptdump_walk")])
    assert {symbol.name for symbol in walk.boundary} == {"_printk", "rwsem_down_write_slowpath", "rwsem_wake"}
    printed = next(symbol for symbol in walk.boundary if symbol.name == "_printk")
    assert [caller.name for caller in walk.boundary[printed]] == ["note_page"]
    modelled = close(small_image, [small_image.function("ptdump_walk")], {"down_write", "up_write"})
    assert {symbol.name for symbol in modelled.boundary} == {"_printk", "down_write", "up_write"}
    assert not {"down_write", "up_write"} & {function.name for function in modelled.functions}


def test_a_function_that_calls_none_is_alone(small_image: Image) -> None:
    alone = close(small_image, [small_image.function("vmalloc_to_page")])
    assert [function.name for function in alone.functions] == ["vmalloc_to_page"] and not alone.boundary
    assert alone.indirect_calls == 0 and alone.mnemonics.total() == len(instructions(small_image, alone.functions[0]))


def test_what_the_code_has_is_counted(small_image: Image) -> None:
    promotion = close(small_image, [small_image.function("vmap_page_range")])
    assert promotion.mnemonics["tlbi"] == 2 and promotion.mnemonics["b.cond"] > 5
    assert [small_image.name_at(site.key) for site in promotion.jump_sites] == ["huge_vmap_disabled"]
    assert {found.feature for found in promotion.alternatives} == {"HAS_LSE_ATOMICS"}
    assert sorted(bug.warning for bug in promotion.bugs) == [False, True, True]
    assert [function.name for function in promotion.weak] == ["arch_vmap_pmd_supported"]
    walk = close(small_image, [small_image.function("walk_page_range_debug")])
    assert walk.indirect_calls == walk.mnemonics["blr"] >= 4


def test_without_the_lock_the_promotion_does_not_reach_it(small_image: Image, tmp_path: Path) -> None:
    image = load(small.build_image(tmp_path, config=small.FRAGMENT))
    assert {"down_read_trylock", "up_read"} <= reached(small_image, "vmap_page_range")
    assert not {"down_read_trylock", "up_read"} & reached(image, "vmap_page_range")


def test_alternatives_decide_what_is_reached(small_image: Image, tmp_path: Path) -> None:
    assert reached(small_image, "alternative_forms") == {"alternative_forms"}
    image = load(small.build_image(tmp_path, features=("HAS_OTHER",)))
    assert reached(image, "alternative_forms") == {"alternative_forms", "pmd_set_huge"}


@pytest.mark.parametrize(
    ("cc", "page_size", "levels"),
    [("gcc", "4K", 4), ("gcc", "16K", 2), ("gcc", "64K", 3), ("clang", "4K", 3), ("clang", "64K", 2)],
)
def test_every_geometry_and_compiler(cc: str, page_size: str, levels: int, tmp_path: Path) -> None:
    if cc == "clang" and small.CLANG is None:
        pytest.skip("no clang")
    image = load(small.build_image(tmp_path, cc=cc, page_size=page_size, levels=levels))
    assert (image.manifest.page_size, image.manifest.levels) == (page_size, levels)
    table = image.symbol("swapper_pg_dir")
    assert table.size == 1 << image.manifest.page_shift and table.address % table.size == 0
    assert reached(image, "ptdump_walk") >= {"note_page", "ptdump_pte_entry", "ptdump_walk_pgd"}
    freer = "pmd_free_pte_page" if levels == 2 else "pud_free_pmd_page"
    assert freer in {
        frame.function for address in _addresses(image, "vmap_page_range") for frame in image.frames(address)
    }
    assert image.types.offset("mm_struct", "mmap_lock", "owner") == 24


def _addresses(image: Image, name: str) -> list[int]:
    found = close(image, [image.function(name)])
    return [line.address for lines in found.lines.values() for line in lines]
