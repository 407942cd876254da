"""fuzzvm.scenario.calls: calls and their text."""

from __future__ import annotations

import builtins
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.ops import Annotation
from fuzzvm.scenario.calls import (
    CALLS,
    MAX_PAGES,
    MAX_TEXT,
    MMS,
    PROTS,
    SHIFTS,
    Call,
    CallFunction,
    CatKernelPageTables,
    CatPageTables,
    CheckWxPages,
    Output,
    Vfree,
    Vmalloc,
    VmallocHuge,
    Vmap,
    VmUnmapAliases,
    Vunmap,
    parse_call,
    run_calls,
)
from fuzzvm.scenario.errors import ScenarioError
from tests.kernel.reference import Page, translate
from tests.support import boot, run

PAGES = st.integers(0, MAX_PAGES)
COUNTS = st.integers(1, MAX_PAGES)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True)
WORDS = st.integers(-(1 << 63), (1 << 64) - 1) | st.sampled_from(["page:0", "phys:12", "pmd:3", "pgd:0", "&init_mm"])
CALL_STRATEGY: st.SearchStrategy[Call] = st.one_of(
    st.builds(
        Vmap, PAGES, COUNTS, st.sampled_from(list(SHIFTS)), st.sampled_from(list(PROTS)), st.integers(0, MAX_PAGES)
    ),
    st.builds(Vmap, PAGES, COUNTS),
    st.builds(Vunmap, PAGES, COUNTS),
    st.builds(Vmalloc, NAMES, COUNTS, st.sampled_from(list(PROTS))),
    st.builds(VmallocHuge, NAMES, COUNTS, st.sampled_from(list(PROTS))),
    st.builds(Vfree, NAMES),
    st.builds(
        CallFunction, NAMES, st.lists(WORDS | st.lists(WORDS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple)
    ),
    st.sampled_from([VmUnmapAliases(), CatKernelPageTables(), CheckWxPages(), *map(CatPageTables, MMS)]),
)


@given(CALL_STRATEGY)
def test_text_round_trips(call: Call) -> None:
    assert parse_call(str(call)) == call
    assert parse_call(f"  {call}\n") == call


def test_text_is_the_documented_one() -> None:
    assert str(Vmap(0, 4, "pmd")) == "vmap(page=0, nr_pages=4, max_page_shift='pmd')"
    assert str(Vmap(0, 4, prot="rwx", phys_page=3)) == "vmap(page=0, nr_pages=4, prot='rwx', phys_page=3)"
    assert str(VmallocHuge("a", 3)) == "vmalloc_huge(area='a', nr_pages=3)"
    assert str(CheckWxPages()) == "check_wx_pages()"
    assert list(CALLS) == [call.name for call in CALLS.values()]
    assert [name for name, call in CALLS.items() if call.walks] == [
        "cat_kernel_page_tables",
        "check_wx_pages",
        "cat_page_tables",
    ]
    assert [mm for mm in MMS if CatPageTables(mm).walks_other_mm] == ["efi_mm", "current_mm"]
    assert str(CallFunction("f")) == "call(function='f')"
    assert str(CallFunction("f", ("page:1", (0, -2)))) == "call(function='f', arguments=['page:1', [0, -2]])"
    assert str(CatPageTables("efi_mm")) == "cat_page_tables(mm='efi_mm')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a call"),
        ("vmap", "'vmap' is not a call with named arguments"),
        ("vmap(", "'vmap(' is not a call"),
        ("vmap(page=0, nr_pages=1); x", "is not a call"),
        ("x = vmap()", "is not a call"),
        ("vmap(0, 1)", "is not a call with named arguments"),
        ("vmap(*[0])", "is not a call with named arguments"),
        ("vmap(**{'page': 0})", "vmap has no argument None"),
        ("a.vmap(page=0)", "is not a call with named arguments"),
        ("vmap(page=0, nr_pages=1)()", "is not a call with named arguments"),
        ("mmap(page=0)", "no call 'mmap'; there are vmap, vunmap, "),
        ("vmap(page=0)", "vmap needs nr_pages"),
        ("vmap()", "vmap needs page, nr_pages"),
        ("vmap(page=0, nr_pages=1, flags=2)", "vmap has no argument 'flags'; it has page, nr_pages, "),
        ("vm_unmap_aliases(x=1)", "vm_unmap_aliases has no argument 'x'; it has none"),
        ("vmap(page='0', nr_pages=1)", "vmap: page must be int"),
        ("vmap(page=True, nr_pages=1)", "vmap: page must be int"),
        ("vmap(page=0.0, nr_pages=1)", "vmap: page must be int"),
        ("vmap(page=-1, nr_pages=1)", "vmap: page must be int"),
        ("vmap(page=1+1, nr_pages=1)", "vmap: page must be int"),
        ("vmap(page=0, nr_pages=1, prot=3)", "vmap: prot must be str"),
        ("vmap(page=0, nr_pages=0)", "vmap: nr_pages must be from 1 to "),
        (f"vmap(page={MAX_PAGES + 1}, nr_pages=1)", "vmap: page must be from 0 to "),
        ("vmap(page=0, nr_pages=1, prot='wx')", "vmap: prot must be one of rw, ro, rox, rwx, not 'wx'"),
        ("vmap(page=0, nr_pages=1, max_page_shift='p4d')", "must be one of pte, contpte, pmd, pud, not 'p4d'"),
        ("cat_page_tables()", "cat_page_tables needs mm"),
        ("cat_page_tables(mm='current')", "must be one of init_mm, efi_mm, current_mm, not 'current'"),
        ("vfree(area='')", "vfree: area must be a name, not ''"),
        ("vfree(area='a b')", "vfree: area must be a name, not 'a b'"),
        ("vfree(area='a\\nb')", "vfree: area must be a name, not 'a\\nb'"),
        ("vfree(area=b'a')", "vfree: area must be str"),
        ("vfree(area=f'a')", "vfree: area must be str"),
        ("vfree(area='\\d')", "is not a call"),
        ("vmap(page=0or 1, nr_pages=1)", "is not a call"),
        ("vfree(area='a', area='b')", "vfree: argument area is given twice"),
        ("call()", "call needs function"),
        ("call(function='')", "call: function must be the name of one, not ''"),
        ("call(function='f()')", "call: function must be the name of one, not 'f()'"),
        ("call(function='f', arguments='page:0')", "arguments must be a list"),
        ("call(function='f', arguments=[0]*3)", "arguments must be a list"),
        ("call(function='f', arguments=[1,2,3,4,5,6,7,8,9])", "9 arguments, at most 8 are possible"),
        ("call(function='f', arguments=[[]])", "argument 1 is a list of 0 words, 1 to 64 are possible"),
        ("call(function='f', arguments=[0, [[1]]])", "argument 2 must be a number, 'page:N', "),
        ("call(function='f', arguments=[True])", "argument 1 must be a number, "),
        ("call(function='f', arguments=[1.5])", "argument 1 must be a number, "),
        ("call(function='f', arguments=[-'page:0'])", "argument 1 must be a number, "),
        ("call(function='f', arguments=['page:-1'])", "argument 1 must be a number, "),
        ("call(function='f', arguments=['page:01'])", "argument 1 must be a number, "),
        ("call(function='f', arguments=['pfn:1'])", "argument 1 must be a number, "),
        ("call(function='f', arguments=['init_mm'])", "argument 1 must be a number, "),
        ("call(function='f', arguments=['&'])", "argument 1 must be a number, "),
        ("call(function='f', arguments=[0x10000000000000000])", "argument 1 has more than 64 bits"),
        ("call(function='f', arguments=[open('x')])", "argument 1 must be a number, "),
        ("\x00", "is not a call"),
        ("\ud800", "is not a call"),
        ("vfree(area='a')\nimport os", "is not a call"),
        ("(" * 150, "is not a call"),
        ("-" * 190 + "1", "is not a call with named arguments"),
        ("x" * (MAX_TEXT + 1), f"call of {MAX_TEXT + 1} characters, at most {MAX_TEXT} are allowed"),
    ],
)
def test_bad_text_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_call(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_call_or_a_scenario_error(text: str) -> None:
    try:
        call = parse_call(text)
    except ScenarioError as error:
        assert "\n" not in str(error)
    else:
        assert parse_call(str(call)) == call


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "vmap(page=__import__('os').getpid(), nr_pages=1)",
        "vmap(page=(lambda: 1)(), nr_pages=1)",
        "vmap(page=exec('1'), nr_pages=1)",
        "vfree(area=open('/etc/passwd').read())",
        "vfree(area=[x for x in (1,)][0])",
        "vfree(area=(y := 'a'))",
        "exec('raise SystemExit')",
        "vmap.__class__(page=1)",
        "CALLS(page=0)",
        "vmap(page=9**9**9, nr_pages=1)",
    ],
)
def test_hostile_text_is_never_evaluated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is evaluated is compiled first; the text is only ever compiled to a tree (PyCF_ONLY_AST)."""
    compiled = builtins.compile
    trees = []

    def compile_to_tree(source: Any, filename: Any, mode: str, flags: int = 0, *args: Any, **kwargs: Any) -> Any:
        if text in str(source):
            assert flags & 0x400
            trees.append(source)
        return compiled(source, filename, mode, flags, *args, **kwargs)

    def not_a_text(code: Any, *args: Any) -> Any:
        assert not isinstance(code, str)
        return evaluate(code, *args)

    evaluate = builtins.eval
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "compile", compile_to_tree)
        patched.setattr(builtins, "eval", not_a_text)
        try:
            parse_call(text)
        except ScenarioError as error:
            found = str(error)
        else:
            found = ""
    assert found
    assert "\n" not in found
    assert trees == [text]


# What calls do


def run_all(*calls: Call, levels: int = 3, fanout: int = 4) -> tuple[Any, Kernel, Failure | None, list[Output]]:
    machine, kernel = boot("arm64", levels, fanout, cpus=1)
    oracles = machine.observer
    assert oracles is not None
    outputs: list[Output] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(oracles, name)

        def annotated(self, cpu: int, annotation: Annotation) -> None:
            if isinstance(annotation, Output):
                outputs.append(annotation)
            assert oracles is not None
            oracles.annotated(cpu, annotation)

    machine.observer = Recorder()
    failure = run(machine, run_calls(kernel, calls, ()))
    return machine, kernel, failure, outputs


def test_pages_count_from_the_beginning_of_the_vmalloc_area() -> None:
    machine, kernel, failure, _ = run_all(Vmap(4, 5, prot="ro"), Vunmap(8, 1))
    assert failure is None
    assert translate(machine, kernel, 4) == Page(4, PROTS["ro"], Level.PMD)
    assert translate(machine, kernel, 8) is None


def test_a_physical_page_may_be_given() -> None:
    machine, kernel, _, _ = run_all(Vmap(4, 4, phys_page=9))
    assert translate(machine, kernel, 5) == Page(10, PROTS["rw"], Level.PTE)


def test_areas_are_remembered_by_name() -> None:
    machine, kernel, failure, _ = run_all(
        Vmalloc("a", 2), VmallocHuge("b", 4), Vfree("a"), Vfree("a"), Vfree("never"), VmUnmapAliases(), Vmalloc("c", 1)
    )
    assert failure is None
    assert translate(machine, kernel, 0) == Page(0, PROTS["rw"], Level.PTE)
    assert translate(machine, kernel, 1) is None
    assert translate(machine, kernel, 4) == Page(4, PROTS["rw"], Level.PMD)


def test_an_area_that_found_no_room_has_no_name() -> None:
    machine, _, failure, _ = run_all(Vmalloc("a", 65), Vfree("a"))
    assert failure is None
    assert machine.allocator.allocations[-1].label != "a"


def test_what_user_space_reads() -> None:
    _, _, failure, outputs = run_all(CheckWxPages(), Vmap(0, 1, prot="rwx"), CheckWxPages(), CatKernelPageTables())
    assert failure is None
    assert [(output.file, output.text.splitlines()[0]) for output in outputs] == [
        ("check_wx_pages", "SUCCESS"),
        ("check_wx_pages", "FAILED"),
        ("kernel_page_tables", "---[ vmalloc() area ]---"),
    ]


def test_a_call_of_no_kind_does_nothing_it_could() -> None:
    with pytest.raises(NotImplementedError):
        Call().run(boot()[1], ())
    assert all(dataclasses.is_dataclass(call) and call.__doc__ for call in CALLS.values())
