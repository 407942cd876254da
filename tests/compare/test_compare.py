"""Compiled code of the small kernel beside the model: what is the same is no drift, what differs is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.compare.compare import Comparison, compare
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image, load
from fuzzvm.kbuild.modelled import modelled
from fuzzvm.kernel.errors import FREE_OF_LINKED_TABLE
from fuzzvm.scenario import shipped
from tests.cli.running import fuzzvm
from tests.compare import small_7_3
from tests.compiled import small
from tests.compiled.run.mutations import MMU, PMD_CLEAR, PMD_FREE

pytestmark = small.needs_compiler
PMD = "pmd-promotion"


@pytest.fixture(scope="module")
def as_7_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of a small kernel that does what the model of 7.3 does."""
    return small.build_image(tmp_path_factory.mktemp("as-7-3"), edits=small_7_3.files())


def wrong_image(tmp_path: Path) -> Image:
    return load(small.build_image(tmp_path, edits=small_7_3.files(*small_7_3.WRONG)))


def drift(comparison: Comparison) -> set[tuple[str, str, str]]:
    found = [one.difference for one in comparison.found if one.drift]
    return {(one.what, str(one.one), one.function) for one in found}


@pytest.mark.always
def test_code_that_does_what_the_model_does_is_no_drift(as_7_3: Path) -> None:
    done = fuzzvm("image", "compare", str(as_7_3), "--release", "linux-7.3", "-s", PMD, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["drift"]
    assert {one["class"] for one in told["differences"]} == {"harmless"}
    assert told["functions"]["pmd_free_pte_page"] > 0
    assert "vmap_try_huge_pud" in [one["name"] for one in told["not_compared"]["functions"]]
    assert told["not_compared"]["accesses"]["struct page"] > 0
    assert told["not_compared"]["functions_elsewhere"] == sum("arch/x86/" in one.file for one in modelled())


@pytest.mark.always
def test_each_wrong_step_is_named(tmp_path: Path) -> None:
    comparison = compare(wrong_image(tmp_path), "linux-7.3", [shipped.get(PMD)])
    assert not comparison.failed
    assert drift(comparison) == {
        ("read again", "read pte[0.0.0]", "ptdump_pte_entry"),
        ("missing", "dsb ish", "__flush_tlb_kernel_pgtable"),
        ("another order", "write pmd[0.0] = none", "pmd_free_pte_page"),
        ("another ordering", "up_read of init_mm.mmap_lock", "vmap_try_huge_pmd"),
    }


def test_a_release_that_maps_no_blocks_differs(as_7_3: Path) -> None:
    """Linux 6.12 with ptdump configured never promotes: what the image does is what that model lacks."""
    comparison = compare(load(as_7_3), "linux-6.12", [shipped.get(PMD)])
    assert ("further", "free pmd[0.0]", "pmd_free_pte_page") in drift(comparison)
    assert ("further", "down_read_trylock of init_mm.mmap_lock (acquire)", "vmap_try_huge_pmd") in drift(comparison)


def test_drift_is_printed_with_the_lines_of_both_sides(as_7_3: Path) -> None:
    done = fuzzvm("image", "compare", str(as_7_3), "--release", "linux-6.12", "-s", PMD, "--rows")
    assert done.returncode == 1, done.stderr
    assert "further: free pmd[0.0] in pmd_free_pte_page" in done.stdout
    assert "arch/arm64/mm/mmu.c:" in done.stdout
    assert "not compared" in done.stdout


def test_a_scenario_that_cannot_be_compared_is_refused(as_7_3: Path) -> None:
    done = fuzzvm("image", "compare", str(as_7_3), "--release", "linux-7.3", "-s", "pud-promotion")
    assert done.returncode == 2
    assert "the model maps no block by it" in done.stderr


@pytest.mark.slow
def test_a_run_that_fails_on_one_side_alone_is_drift(tmp_path: Path) -> None:
    """A table freed while it is linked ends the image's run, and the model's goes on."""
    edit = (MMU, PMD_CLEAR + PMD_FREE, "\tfree_table(table);\n" + PMD_CLEAR + "\treturn 1;\n}\n\nint pud")
    image = load(small.build_image(tmp_path, edits=small_7_3.files(edit)))
    comparison = compare(image, "linux-7.3", [shipped.get(PMD)])
    assert comparison.drift
    ends = {(one.compiled and one.compiled.error, one.model) for one in comparison.failed}
    assert ends == {(FREE_OF_LINKED_TABLE, None)}


def test_an_image_of_another_architecture_is_refused(as_7_3: Path) -> None:
    image = load(as_7_3)
    image.manifest = replace(image.manifest, arch="x86_64")
    with pytest.raises(ImageError, match="images of x86_64 are not compared"):
        compare(image, "linux-7.3", [shipped.get(PMD)])


@pytest.mark.slow
def test_with_two_levels_a_walk_that_reads_the_root_again_is_drift(tmp_path: Path) -> None:
    """The root is the table of PMDs then, and blocks are mapped by it; the model's walk reads it once."""
    image = load(small.build_image(tmp_path, edits=small_7_3.files(), page_size="16K", levels=2))
    found = drift(compare(image, "linux-7.3", [shipped.get(PMD)]))
    assert {(what, operation) for what, operation, _ in found} == {("read again", "read pmd[0]")}
    assert all(function.startswith(("walk_", "ptdump_")) for _, _, function in found)
