"""Static keys of compiled code: sites that are patched while others fetch from them, and what stands there at boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.compiled.image import load
from fuzzvm.exhaustive import Limits, Verdict
from fuzzvm.scenario import shipped
from fuzzvm.verify.images import verify_image
from fuzzvm.verify.matrix import Bounds
from tests.compiled import small

pytestmark = small.needs_compiler

KEY = """\
struct static_key ptdump_lock_key;

int pmd_free_pte_page("""
CLEAR = "\tWRITE_ONCE(pmd->pmd, 0);\n\tflush_tlb_kernel_pgtable(addr);\n"
WAIT = """\
	if (static_branch(&ptdump_lock_key, 0)) {
		down_write(&init_mm.mmap_lock);
		up_write(&init_mm.mmap_lock);
	}
"""
ENABLE = """\
	extern struct static_key ptdump_lock_key;
	void jump_label_update(struct static_key *key);
	void mutex_lock(u64 *lock);
	void mutex_unlock(u64 *lock);
	static u64 jump_label_mutex;

	mutex_lock(&jump_label_mutex);
	WRITE_ONCE(ptdump_lock_key.enabled, 1);
	jump_label_update(&ptdump_lock_key);
	mutex_unlock(&jump_label_mutex);
"""
READS = """\
		if (!READ_ONCE(pmd->pmd)) {
			error = walk->ops->pte_hole(addr, next, LEVEL_PMD, walk);
		} else {
			error = walk->ops->pmd_entry(pmd, addr, next, walk);
			if (!error && is_table(READ_ONCE(pmd->pmd)))
				error = walk_pte_range(pmd, addr, next, walk);
		}
"""
READS_ONCE = (
    f"\t\tpmd_t once = {{ READ_ONCE(pmd->pmd) }};\n{READS.replace('pmd->pmd', 'once.pmd').replace('(pmd,', '(&once,')}"
)
LOCK = "\tdown_write(&mm->mmap_lock);\n"


def verdict(folder: Path, memory: str, edits: dict[str, tuple[str, str]]) -> Verdict:
    """Return the verdict on a small kernel whose promotion takes no lock, and has a static key in its place."""
    image = load(small.build_image(folder, edits, small.FRAGMENT))
    return verify_image(image, shipped.get("pmd-promotion"), memory, Bounds(Limits(max_states=200_000))).verdict


def with_key(freer: str, reads: str = READS_ONCE, enable: str = ENABLE + LOCK) -> dict[str, tuple[str, str]]:
    """Return the edits: what the freer does instead of clear and flush, how a walk reads, and how it begins."""
    mmu = (small.SOURCES / "arch/arm64/mm/mmu.c").read_text()
    begin = mmu.index("int pmd_free_pte_page(")
    end = mmu.index(CLEAR, begin)
    return {
        "arch/arm64/mm/mmu.c": (
            mmu[begin : end + len(CLEAR)],
            KEY + mmu[begin:end].removeprefix("int pmd_free_pte_page(") + freer,
        ),
        "mm/pagewalk.c": (READS, reads),
        "mm/ptdump.c": (LOCK, enable),
    }


@pytest.mark.always
def test_a_key_that_is_patched_before_the_walk_keeps_the_free_away(tmp_path: Path) -> None:
    found = verdict(tmp_path, "arm64", with_key(CLEAR + WAIT))
    assert (found.verdict, found.complete, found.missing) == ("safe", True, ())


@pytest.mark.slow
@pytest.mark.parametrize(
    "edits",
    [
        with_key(WAIT + CLEAR),
        with_key(CLEAR + WAIT, enable=LOCK),
        with_key(CLEAR + WAIT, reads=READS),
    ],
    ids=["looked at before the clear", "never enabled", "a walk that reads again"],
)
def test_a_key_that_is_used_wrongly_does_not(tmp_path: Path, edits: dict[str, tuple[str, str]]) -> None:
    found = verdict(tmp_path, "sc", edits)
    assert found.failure is not None
    assert found.failure.error in ("use-after-free-read", "wild-access")


def test_a_site_that_branches_at_boot_branches_until_it_is_patched(tmp_path: Path) -> None:
    """The key of `huge_vmap_disabled` is on where its site is a branch: then nothing is ever promoted."""
    edits = {"include/small.h": ('asm goto("1: nop\\n', 'asm goto("1: b %l[yes]\\n')}
    assert verdict(tmp_path, "sc", edits).verdict == "vacuous"
