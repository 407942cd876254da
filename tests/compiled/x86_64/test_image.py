"""fuzzvm.compiled.x86_64.image: what building and showing an image needs of x86_64, on the small kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fuzzvm.compiled.arch import Alternative
from fuzzvm.compiled.closure import close, instructions
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.x86_64.image import ARCH
from tests.compiled import small

pytestmark = small.needs_x86_64


def text_of(image: Image, name: str) -> list[str]:
    return [f"{line.mnemonic} {line.operands}".rstrip() for line in instructions(image, image.function(name))]


def test_alternatives_of_stated_features_are_applied_with_their_addresses_adjusted(small_x86_64: Image) -> None:
    image = small_x86_64
    text = text_of(image, "alternative_forms")
    level, target = image.symbol("debug_level").address, image.symbol("pmd_set_huge").address
    lines = instructions(image, image.function("alternative_forms"))
    load = next(line for line in lines if line.mnemonic == "mov" and "rip" in line.operands)
    assert load.address + load.size + int(load.operands.split(" + ")[1].rstrip("]"), 16) == level
    assert f"call {target:#x}" in text
    # the one for CPUs that lack the feature stays as it was, the one for all is NOPs
    assert "ud2" not in text and not any(line.startswith("jmp") for line in text)
    assert "nop" in text and "xor eax, eax" not in text
    assert [(found.feature, found.applied) for found in image.alternatives] == [
        ("SMALL", True),
        ("!SMALL", False),
        ("ALWAYS", True),
    ]


def test_an_alternative_that_is_out_of_reach_is_refused() -> None:
    # a short jump to what lies behind the replacement
    far = Alternative(0x1000, 0x9000, 2, "ALWAYS", callback=False, new_size=2)
    with pytest.raises(ImageError, match="out of reach"):
        ARCH.replacement(far, lambda address, size: b"\xeb\x10"[:size])


def test_what_reaches_what_is_read_off_immediates_and_operands(small_x86_64: Image) -> None:
    image = small_x86_64
    found = close(image, [image.function("ptdump_walk_pgd_level_debugfs")])
    names = {image.source_name(function) for function in found.functions}
    # by the address of ptdump_ops, which is data, and by that of note_page, which an instruction holds
    assert {"ptdump_walk_pgd", "ptdump_pte_entry", "ptdump_hole", "note_page", "walk_page_range_debug"} <= names
    assert {symbol.name for symbol in found.boundary} == {
        "_printk", "preempt_schedule_thunk", "rwsem_down_write_slowpath", "rwsem_wake",
    }  # fmt: skip
    assert found.indirect_calls >= 4 and not found.jump_sites
    promotion = close(image, [image.function("vmap_page_range")])
    assert [image.name_at(site.key) for site in promotion.jump_sites] == ["huge_vmap_disabled"]
    assert sorted(bug.warning for bug in promotion.bugs) == [False, True, True]
    assert "flush_tlb_kernel_range" in {symbol.name for symbol in promotion.boundary}


def test_bytes_that_are_no_instruction_are_named() -> None:
    lines = list(ARCH.disassemble(b"\x06\x90\xe8\x00\x00\x00\x00", 0x1000))
    assert [(line.address, line.mnemonic, line.target) for line in lines] == [
        (0x1000, "(bad)", None),
        (0x1001, "nop", None),
        (0x1002, "call", 0x1007),
    ]


def test_features_and_bugs_have_their_numbers() -> None:
    header = (small.SOURCES / "arch/x86/include/asm/cpufeatures.h").read_text()
    assert ARCH.features(header) == {21: "ALWAYS", 35: "SMALL", 65: "BUG_SMALL"}


def test_five_levels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="5 levels of page tables are not supported"):
        ARCH.levels({}, ["LA57"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"atomics": "lse"}, "x86_64 has no atomics lse, only lock"),
        ({"page_size": "16K"}, "x86_64 has no pages of 16K, only of 4K"),
        ({"features": ("LA57",)}, "knows no CPU feature LA57"),
    ],
)
def test_what_x86_64_does_not_have_is_refused(given: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=why):
        small.build_image(tmp_path, arch="x86_64", **given)
