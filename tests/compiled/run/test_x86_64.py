"""The small kernel for x86_64 on its memory model: verdicts, locked instructions, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.compiled.image import Image, load
from fuzzvm.compiled.run.program import CompiledProgram
from fuzzvm.compiled.run.task import CompiledTask, CpuCalls, call
from fuzzvm.exhaustive import Limits, Verdict, verify
from fuzzvm.kernel.errors import LEAKED_TABLE
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.task import settled
from fuzzvm.scenario import shipped
from fuzzvm.verify.images import verify_image
from fuzzvm.verify.matrix import Bounds
from tests.compiled import small

pytestmark = small.needs_x86_64
PMD = shipped.get("x86-pmd-promotion")
BOUNDS = Bounds(Limits(max_states=200_000))


def verdict_of_calls(image: Image, memory: str, *cpus: CpuCalls) -> Verdict:
    task = CompiledTask(image, memory, CpuCalls(()), cpus).learned()
    return settled(task, lambda task: verify(task, Limits(max_states=100_000)))[1]


@pytest.mark.parametrize(
    "memory", [pytest.param("sc", marks=pytest.mark.slow), pytest.param("tso", marks=pytest.mark.always)]
)
def test_a_promotion_that_takes_the_lock_is_safe(small_x86_64: Image, memory: str) -> None:
    found = verify_image(small_x86_64, shipped.get("x86-pmd-promotion"), memory, BOUNDS).verdict
    assert (found.verdict, found.complete, found.missing) == ("safe", True, ())


@pytest.fixture(scope="session")
def without_lock(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The small kernel with a promotion that takes no lock."""
    folder = tmp_path_factory.mktemp("x86-no-trylock")
    return load(small.build_image(folder, config=small.FRAGMENT, arch="x86_64"))


@pytest.mark.parametrize(
    "memory", [pytest.param("sc", marks=pytest.mark.slow), pytest.param("tso", marks=pytest.mark.always)]
)
def test_one_that_takes_no_lock_is_not(without_lock: Image, memory: str) -> None:
    run = verify_image(without_lock, shipped.get("x86-pmd-promotion"), memory, BOUNDS)
    found = run.verdict
    assert found.failure is not None and found.failure.error in ("use-after-free-read", "wild-access")
    assert found.failure.stack[-2:] == ("ptdump_walk_pgd", "ptdump_walk_pgd_level_debugfs")


@pytest.mark.always
@pytest.mark.parametrize(("fenced", "memory"), [(1, "tso"), (0, "tso"), (0, "sc")])
def test_a_locked_instruction_on_the_own_stack_is_a_full_barrier(small_x86_64: Image, fenced: int, memory: str) -> None:
    """It is how Linux spells smp_mb(): nobody sees the access, and what it orders shows all the same."""
    first = small_x86_64.symbol("written").address
    cpus = [
        CpuCalls((call(small_x86_64, "store_buffering", first + 8 * cpu, first + 8 * (1 - cpu), fenced),))
        for cpu in range(2)
    ]
    found = verdict_of_calls(small_x86_64, memory, *cpus)
    assert found.verdict == ("bug" if memory == "tso" and not fenced else "safe")
    assert found.complete or (found.failure is not None and found.failure.error == "kernel-bug")


@pytest.mark.parametrize(("free", "verdict"), [("\tfree_pages(saved, 0);\n", "safe"), ("", "bug")])
def test_a_page_may_be_had_and_freed_by_its_address(tmp_path: Path, free: str, verdict: str) -> None:
    """As pud_free_pmd_page() of 6.12 does, which saves the PMDs that it clears."""
    old = "\tpte_t *table = pte_offset_kernel(pmd, addr);\n\n"
    new = f"""\
	extern u64 *get_free_pages_noprof(u32 gfp, u32 order);
	extern void free_pages(u64 *addr, u32 order);
	pte_t *table = pte_offset_kernel(pmd, addr);
	u64 *saved = get_free_pages_noprof(0xcc0, 0);

	saved[1] = pmd->pmd;
	if (READ_ONCE(saved[0]) || READ_ONCE(saved[1]) != pmd->pmd)
		BUG();
{free}
"""
    image = load(small.build_image(tmp_path, edits={"arch/x86/mm/pgtable.c": (old, new)}, arch="x86_64"))
    found = verify_image(image, replace(PMD, cpus=PMD.cpus[:1]), "tso", BOUNDS).verdict
    assert found.verdict == verdict and found.missing == ()
    assert found.failure is None or found.failure.error == LEAKED_TABLE


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("undefined_flag", "zf is read, which the instruction that wrote it leaves undefined"),
        ("read_per_cpu", "per-CPU variable not_there is read, which the image does not define"),
        ("jump_label_update_caller", "static keys of x86_64 are not patched"),
    ],
)
def test_what_is_not_known_is_refused_with_function_and_address(small_x86_64: Image, function: str, why: str) -> None:
    key = small_x86_64.symbol("huge_vmap_disabled").address
    name = "static_key_enable" if function == "jump_label_update_caller" else function
    calls = [CpuCalls((call(small_x86_64, name, key),))]
    task = CompiledTask(small_x86_64, "sc", CpuCalls(()), calls, assume=False)
    with pytest.raises(ProgramError, match=why) as refused:
        verify(task, Limits(max_states=1000))
    assert f"{name}" in str(refused.value) or "jump_label_update" in str(refused.value)


def test_functions_that_have_no_frame_yet_are_in_the_stack(small_x86_64: Image) -> None:
    """At its begin, behind its push of the frame pointer, and before its return, a function is known to be called."""
    image = small_x86_64
    page = 0xFFFF_C900_0000_0000
    task = CompiledTask(
        image,
        "sc",
        CpuCalls(()),
        [CpuCalls((call(image, "vmap_page_range", page, page + 4096, 1 << 38, 1),))],
        assume=False,
    )
    programs = task.programs()
    machine = task.booted()
    machine.start(programs)
    stacks = set()
    while enabled := machine.enabled():
        machine.step(enabled[0], lambda ways: 0)
        program = programs[0]
        assert isinstance(program, CompiledProgram)
        if frames := program.stack():
            stacks.add(frames[-1])
    # which vmap_page_range() jumps to
    assert stacks == {"vmap_range_noflush"}
