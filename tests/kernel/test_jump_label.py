"""fuzzvm.kernel.jump_label: counted and flag keys, and the text that they patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.kernel.arch.x86_64.alternative import JMP8, Poke
from fuzzvm.kernel.errors import BROKEN_INSTRUCTION, UNBALANCED_STATIC_KEY
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.jump_label import (
    BRANCH,
    NOP,
    StaticKey,
    static_branch_dec,
    static_branch_disable,
    static_branch_enable,
    static_branch_inc,
    static_branch_unlikely,
)
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import (
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Operation,
    Order,
    Rmw,
    Steps,
    Store,
)
from tests.support import Follow, Seeded, boot, executions, operations, random_failures, run

FUNCTIONS = ("pmd_free_pte_page", "pud_free_pmd_page", "a_third_site")


class WithKey(Mitigation):
    key: StaticKey

    def attach(self, boot: Boot) -> None:
        self.key = boot.static_key("key", FUNCTIONS)


CALLS: dict[str, Callable[[Kernel, StaticKey], Steps[None]]] = {
    "inc": static_branch_inc,
    "dec": static_branch_dec,
    "enable": static_branch_enable,
    "disable": static_branch_disable,
}


def boot_with_key(arch: str = "arm64", cpus: int = 3, *, tracing: bool = False) -> tuple[Machine, Kernel, StaticKey]:
    machine, kernel = boot(arch, mitigation=WithKey, cpus=cpus, tracing=tracing)
    return machine, kernel, kernel.static_keys[0]


def text(machine: Machine, key: StaticKey) -> set[object]:
    """Return which instructions the key's sites hold."""
    return {machine.memory.peek(site) for _, site in key.sites}


def key_calls(machine: Machine, k: Kernel, key: StaticKey, calls: Sequence[str]) -> Steps[None]:
    """Make calls; check after each what the kernel promises to its caller."""
    users = 0
    index = 0
    while index < len(calls):
        yield from CALLS[calls[index]](k, key)
        users += {"inc": 1, "dec": -1}.get(calls[index], 0)
        if users:
            assert text(machine, key) == {JMP8 if k.arch.name == "x86_64" else BRANCH}, (
                "inc returned, and a site is not patched"
            )
        index += 1


def start(*programs: Sequence[str], arch: str = "arm64") -> Machine:
    machine, kernel, key = boot_with_key(arch, len(programs))
    machine.start([key_calls(machine, kernel.on(cpu), key, calls) for cpu, calls in enumerate(programs)])
    return machine


# Counting


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_two_users_in_every_schedule_of_two_pre_emptions(arch: str) -> None:
    """The second inc returns only once all sites are patched, and the last dec patches them back."""
    machines: list[Machine] = []

    def begin() -> Machine:
        machines.append(start(["inc", "dec"], ["inc", "dec"], arch=arch))
        return machines[-1]

    runs = 0
    for execution in executions(begin, 2):
        assert execution.failure is None
        machine = machines.pop()
        keys = [a.address for a in machine.allocator.allocations if str(a.label).startswith("key")]
        assert [machine.memory.peek(word) for word in keys] == [0] * (1 + len(FUNCTIONS))
        runs += 1
    assert runs > 50


@settings(max_examples=40)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(0, 1 << 32))
def test_the_count_while_users_come_and_go(cpus: int, times: int, seed: int) -> None:
    machine = start(*[["inc", "dec"] * times for _ in range(cpus)])
    kernel_words = {str(a.label): a.address for a in machine.allocator.allocations}
    mutex, word = kernel_words["jump_label_mutex"], kernel_words["key"]
    chooser = Seeded(seed)
    while not machine.done:
        machine.step(chooser.agent(machine.enabled(), machine), lambda ways: 0)
        count = machine.memory.peek(word)
        assert isinstance(count, int)
        assert -1 <= count <= cpus
        if count == -1:
            assert machine.memory.peek(mutex) != 0, "-1 stands only while the first user patches, under the mutex"
        sites = {machine.memory.peek(kernel_words[f"key in {function}"]) for function in FUNCTIONS}
        if count >= 1:
            assert sites == {BRANCH}
        if machine.memory.peek(mutex) == 0:
            assert sites == ({BRANCH} if count else {NOP})
    assert machine.failure is None
    assert machine.memory.peek(word) == 0


def test_the_second_inc_waits_for_the_first_to_patch() -> None:
    machine = start(["inc", "dec"], ["inc", "dec"])
    words = {str(a.label): a.address for a in machine.allocator.allocations}
    while machine.memory.peek(words[f"key in {FUNCTIONS[0]}"]) != BRANCH:
        machine.step(0, lambda ways: 0)
    assert machine.memory.peek(words["key"]) == -1
    assert machine.memory.peek(words[f"key in {FUNCTIONS[1]}"]) == NOP
    while 1 in machine.enabled():
        machine.step(1, lambda ways: 0)
    assert machine.stack(1)[0] == "mutex_lock", "CPU 1 waits, with only one site patched"
    assert machine.memory.peek(words["key"]) == -1


def test_a_third_user_only_counts() -> None:
    machine, kernel, key = boot_with_key(cpus=1, tracing=True)
    machine.boot(static_branch_inc(kernel, key))
    machine.boot(static_branch_inc(kernel, key))
    assert machine.memory.peek(key.enabled) == 2

    def more(k: Kernel) -> Steps[None]:
        yield from static_branch_inc(k, key)
        yield from static_branch_dec(k, key)

    machine.start([more(kernel)])
    execute(machine, Follow())
    assert [type(op) for op in operations(machine)] == [Load, Rmw, Load, Rmw]
    assert machine.memory.peek(key.enabled) == 2
    assert text(machine, key) == {BRANCH}


# A flag does not count


def test_enable_and_disable_do_not_count() -> None:
    machine, kernel, key = boot_with_key()
    machine.boot(static_branch_enable(kernel, key))
    machine.boot(static_branch_enable(kernel, key))
    assert machine.memory.peek(key.enabled) == 1
    assert text(machine, key) == {BRANCH}
    machine.boot(static_branch_disable(kernel, key))
    assert machine.memory.peek(key.enabled) == 0
    assert text(machine, key) == {NOP}
    machine.boot(static_branch_disable(kernel, key))
    assert machine.memory.peek(key.enabled) == 0


def test_flags_of_several_cpus_end_off_and_unpatched() -> None:
    def begin() -> Machine:
        return start(["enable", "disable"], ["enable", "disable"])

    finals = set()
    for seed in range(150):
        machine = begin()
        assert execute(machine, Seeded(seed)).failure is None
        words = [a.address for a in machine.allocator.allocations if str(a.label).startswith("key")]
        finals |= {machine.memory.peek(word) for word in words}
    assert finals == {0}
    assert random_failures(begin, 20) == set()


# Unbalanced keys


def test_dec_below_zero() -> None:
    for calls in (["dec"], ["inc", "dec", "dec"]):
        machine, kernel, key = boot_with_key(cpus=1)
        failure = run(machine, key_calls(machine, kernel, key, calls))
        assert_unbalanced(failure, "key is decremented below zero")
        assert failure is not None
        assert failure.cpu == 0


def test_two_decs_of_one_inc_are_found_in_every_schedule() -> None:
    def begin() -> Machine:
        machine, kernel, key = boot_with_key(cpus=2)
        machine.boot(static_branch_inc(kernel, key))
        machine.start([static_branch_dec(kernel.on(cpu), key) for cpu in range(2)])
        return machine

    for execution in executions(begin, 2):
        assert_unbalanced(execution.failure, "key is decremented below zero")


@pytest.mark.parametrize("calls", [["inc"], ["enable"], ["inc", "inc", "dec"]])
def test_a_key_that_is_left_on(calls: list[str]) -> None:
    machine, kernel, key = boot_with_key(cpus=1)
    failure = run(machine, key_calls(machine, kernel, key, calls))
    assert_unbalanced(failure, "key is left at 1")


def assert_unbalanced(failure: Failure | None, message: str) -> None:
    assert failure is not None
    assert failure.error == UNBALANCED_STATIC_KEY
    assert failure.message == message


# Text


def kinds(steps: Sequence[Operation]) -> list[object]:
    names: list[object] = []
    for op in steps:
        match op:
            case Store(_, value):
                names.append(("store", value))
            case CacheMaintenance(operation):
                names.append(operation)
            case Fence(kind):
                names.append(kind.value)
            case InterruptAll():
                names.append("ipi")
            case other:
                names.append(type(other).__name__)
    return names


def test_patching_on_arm64_is_the_documented_sequence() -> None:
    """Arm ARM B2.7.4.2 and aarch64_insn_patch_text_nosync(): a site at a time, one IPI for all."""
    machine, kernel, key = boot_with_key(cpus=1, tracing=True)
    run(machine, static_branch_inc(kernel, key))
    site = [
        ("store", BRANCH),
        CacheOperation.DC_CVAU,
        "dsb ish",
        CacheOperation.IC_IVAU,
        "dsb ish",
        "isb",
    ]
    patching = [*site * len(FUNCTIONS), "ipi"]
    assert kinds(operations(machine)) == ["Load", "Rmw", "Rmw", *patching, ("store", 1), "Rmw"]
    published = operations(machine)[-2]
    assert isinstance(published, Store)
    assert published.order is Order.RELEASE, "who sees the count must see the text"
    sites = [op.address for op in operations(machine) if isinstance(op, CacheMaintenance)]
    assert sites == [address for _, address in key.sites for _ in range(2)]


def test_patching_on_x86_64_is_a_batch_with_three_ipis() -> None:
    """text_poke_bp_batch(): breakpoints, second bytes, first bytes, of all sites each, and an IPI after each."""
    machine, kernel, key = boot_with_key("x86_64", cpus=1, tracing=True)
    run(machine, static_branch_inc(kernel, key))
    breakpoints = ["Load", ("store", 0x00CC), "isb"] * len(FUNCTIONS)
    seconds = [("store", 0x01CC), "isb"] * len(FUNCTIONS)
    firsts = [("store", 0x01EB), "isb"] * len(FUNCTIONS)
    batch = ["Rmw", *breakpoints, "ipi", *seconds, "ipi", *firsts, "ipi", "Rmw"]
    assert kinds(operations(machine)) == ["Load", "Rmw", "Rmw", *batch, ("store", 1), "Rmw"]


def test_ipis_of_a_patch_do_not_grow_with_its_sites() -> None:
    """HAVE_JUMP_LABEL_BATCH: on and off again are two batches, of three IPIs each."""
    machine, kernel, key = boot_with_key("x86_64", cpus=1, tracing=True)

    def on_and_off(k: Kernel) -> Steps[None]:
        yield from static_branch_inc(k, key)
        yield from static_branch_dec(k, key)

    run(machine, on_and_off(kernel))
    assert [type(op) for op in operations(machine)].count(InterruptAll) == 6


def test_a_breakpoint_is_the_new_instruction() -> None:
    """From the first step of a patch on, whoever hits the breakpoint goes on as if all of it were done."""
    seen = []
    for steps in range(40):
        machine, kernel, key = boot_with_key("x86_64", cpus=2, tracing=True)
        taken: list[bool] = []
        machine.start([static_branch_inc(kernel.on(0), key), reads(kernel.on(1), key, taken)])
        for agent in [0] * steps + [1] * 9 + [0] * 40:
            if agent in machine.enabled():
                machine.step(agent, lambda ways: 0)
        fetched = next(step.response for step in machine.trace or () if isinstance(step.op, Fetch))
        assert machine.done
        assert taken == [fetched != NOP]
        if fetched not in seen:
            seen.append(fetched)
    assert seen == [NOP, 0x00CC, 0x01CC, 0x01EB]


def reads(k: Kernel, key: StaticKey, taken: list[bool]) -> Steps[None]:
    branch = yield from static_branch_unlikely(k, key, FUNCTIONS[0])
    taken.append(branch)


@pytest.mark.parametrize("garbage", [0x0100, 0x00EB, 0x02EB])
def test_half_an_instruction(garbage: int) -> None:
    machine, kernel, key = boot_with_key("x86_64", cpus=1)
    machine.boot(iter_store(key.site(FUNCTIONS[0]), garbage))
    failure = run(machine, static_branch_unlikely(kernel, key, FUNCTIONS[0]))
    assert failure is not None
    assert failure.error == BROKEN_INSTRUCTION


def iter_store(address: int, value: int) -> Steps[None]:
    yield Store(address, value)


def test_an_instruction_that_arm64_never_leaves() -> None:
    machine, kernel, key = boot_with_key("arm64", cpus=1)
    machine.boot(iter_store(key.site(FUNCTIONS[0]), 2))
    failure = run(machine, static_branch_unlikely(kernel, key, FUNCTIONS[0]))
    assert failure is not None
    assert failure.error == BROKEN_INSTRUCTION


@pytest.mark.parametrize("patched", [False, True])
def test_a_breakpoint_of_nobody(patched: bool) -> None:
    """The kernel dies of a breakpoint where nothing is patched, and of one that is not the patch's own."""
    machine, kernel, key = boot_with_key("x86_64", cpus=1)
    machine.boot(iter_store(kernel.arch_data.bp_desc, Poke(1, (key.site(FUNCTIONS[1]),), JMP8, int(patched))))
    machine.boot(iter_store(key.site(FUNCTIONS[0]), 0xCC))
    failure = run(machine, static_branch_unlikely(kernel, key, FUNCTIONS[0]))
    assert failure is not None
    assert failure.error == BROKEN_INSTRUCTION
    assert ("at a site that is not being patched" if patched else "nothing is being patched") in failure.message


@pytest.mark.parametrize("on", [False, True])
def test_the_branch_costs_one_fetch(on: bool) -> None:
    machine, kernel, key = boot_with_key(cpus=1, tracing=True)
    if on:
        machine.boot(static_branch_inc(kernel, key))

    def reads(k: Kernel) -> Steps[None]:
        taken = yield from static_branch_unlikely(k, key, FUNCTIONS[1])
        assert taken is on

    machine.start([reads(kernel)])
    execute(machine, Follow())
    assert operations(machine) == [Fetch(key.site(FUNCTIONS[1]))]


def test_a_key_has_sites_only_where_it_was_given_some() -> None:
    _, _, key = boot_with_key()
    assert len({key.site(function) for function in FUNCTIONS} | {key.enabled}) == 4
    with pytest.raises(KeyError):
        key.site("vmap_try_huge_pmd")
