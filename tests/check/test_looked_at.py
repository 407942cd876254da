"""Which functions that change were looked at, on two images of the small kernel."""

from __future__ import annotations

import pytest

from fuzzvm.check.looked_at import NOT_RUN, RAN, SAME_CODE, Look, Pair, look
from fuzzvm.compiled.image import Image, load
from fuzzvm.compiled.object_code import CodeChanges, code_changes
from fuzzvm.exhaustive import Limits
from fuzzvm.kbuild.changed_functions import ChangedFunction, changed_functions
from fuzzvm.scenario import shipped
from fuzzvm.verify.images import verify_image
from fuzzvm.verify.matrix import Bounds
from tests.compiled import small

NOTHING = frozenset[int]()
FILE = "mm/vmalloc.c"
EDITS = {
    # a macro, which has no body that could differ
    "include/small.h": ('#define dmb(domain) asm volatile("dmb "', '#define dmb(domain) asm volatile("dsb "'),
    FILE: ("if (end - addr != PMD_SIZE ||", "if (addr != end - PMD_SIZE ||"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Image]:
    folder = tmp_path_factory.mktemp("images")
    for name, edits in (("base", None), ("head", EDITS)):
        (folder / name).mkdir()
        small.build_image(folder / name, edits)
    return [load(folder / name / "image") for name in ("base", "head")]


@pytest.fixture(scope="module")
def changes(images: list[Image]) -> CodeChanges:
    base, head = (image.folder / "build" for image in images)
    return code_changes(base, head, images[0].manifest.objects, images[0].arch)


def bodies() -> list[ChangedFunction]:
    old = (small.SOURCES / FILE).read_text()
    return changed_functions(FILE, old, old.replace(*EDITS[FILE]))


def addresses(image: Image, name: str) -> frozenset[int]:
    symbol = image.function(name)
    return frozenset(range(symbol.address, symbol.address + symbol.size, 4))


def found(looks: tuple[Look, ...], name: str) -> Look:
    (one,) = (one for one in looks if one.name == name)
    return one


@small.needs_compiler
def test_what_a_macro_changes_is_a_function_that_changes(images: list[Image], changes: CodeChanges) -> None:
    looks = look(images, bodies(), changes, [])
    assert {one.name for one in looks} >= {"vmap_try_huge_pmd", "populate"}
    assert {one.state for one in looks} == {NOT_RUN}
    # it is inlined in one of which the code differs, and that is not named a second time
    assert "vmap_range_noflush" in changes.functions
    assert "vmap_range_noflush" not in {one.name for one in looks}
    pairs = [Pair("one", NOTHING, addresses(images[1], "populate")), Pair("two", NOTHING, NOTHING)]
    populate = found(look(images, bodies(), changes, pairs), "populate")
    assert (populate.state, populate.pairs, populate.lines) == (RAN, ("one",), 0)


@small.needs_compiler
def test_a_function_is_looked_at_where_a_changed_line_ran(images: list[Image], changes: CodeChanges) -> None:
    (body,) = bodies()
    (line,) = body.after
    host = addresses(images[1], "vmap_range_noflush")
    at = {
        address
        for address in host
        if any(f.function == body.name and f.line == line for f in images[1].frames(address))
    }
    assert at
    looks = look(images, [body], changes, [Pair("one", NOTHING, host - at)])
    assert found(looks, body.name).state == NOT_RUN
    assert found(looks, body.name).why == "it was entered, and none of its changed lines ran"
    looks = look(images, [body], changes, [Pair("one", NOTHING, frozenset(list(at)[:1]))])
    assert (found(looks, body.name).state, found(looks, body.name).lines_ran) == (RAN, 1)


@small.needs_compiler
def test_the_same_code_needs_no_look_and_what_is_modelled_gets_none(images: list[Image], changes: CodeChanges) -> None:
    (body,) = bodies()
    same = look(images, [body], CodeChanges(frozenset(), frozenset()), [])
    assert [one.state for one in same] == [SAME_CODE]
    (one,) = look(images, [], CodeChanges(frozenset({"__warn_printk"}), frozenset()), [])
    assert (one.state, one.why) == (NOT_RUN, "its source is as before, its code is not; the model stands for it")


@small.needs_compiler
def test_what_boot_runs_is_not_what_the_cpus_run(images: list[Image]) -> None:
    run = verify_image(images[0], shipped.get("pmd-promotion"), "sc", Bounds(Limits(None, None)))
    assert run.verdict.verdict == "safe"
    assert run.ran & addresses(images[0], "vmap_range_noflush")
    # the setup unmaps, and no CPU does
    assert not run.ran & addresses(images[0], "vunmap_range")
