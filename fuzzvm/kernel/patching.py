"""Replacing an instruction of text on arm64 (arch/arm64/kernel/patching.c, Linux 6.12, the same in 7.3)."""

from __future__ import annotations

from fuzzvm.machine.ops import Address, Barrier, CacheMaintenance, CacheOperation, Fence, Order, Steps, Store


def patch_text(site: Address, instruction: int) -> Steps[None]:
    """Replace the instruction at a code location (arch_jump_label_transform_queue)."""
    # aarch64_insn_patch_text_nosync: write, then caches_clean_inval_pou
    yield Store(site, instruction, Order.PLAIN, "patch-store")
    yield CacheMaintenance(CacheOperation.DC_CVAU, site, "patch-dc")
    yield Fence(Barrier.DSB_ISH, "patch-dsb-1")
    yield CacheMaintenance(CacheOperation.IC_IVAU, site, "patch-ic")
    yield Fence(Barrier.DSB_ISH, "patch-dsb-2")
    yield Fence(Barrier.ISB, "patch-isb")
