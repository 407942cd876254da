"""Any function of an image by its name, and boundary functions of the user's, on a walker that nobody has modelled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.cli.forked import Commands, Ended
from tests.cli.running import fuzzvm
from tests.compiled import small

pytestmark = small.needs_compiler

PROMOTES = "vmap(page=0, nr_pages=2, max_page_shift='pmd')"
LOOKUP = "call(function='lookup_kernel_address', arguments=['page:0', [0]])"
ACCOUNTS = "call(function='lookup_and_account', arguments=['page:1', [0]])"
LOCKS = "call(function='down_write', arguments=['&init_mm.mmap_lock'])"
UNLOCKS = "call(function='up_write', arguments=['&init_mm.mmap_lock'])"
GOOD = """\
from fuzzvm.compiled.run.primitives import load, store


def account_lookup(c):
    \"\"\"Say which page was looked up, and what maps it.\"\"\"
    seen = yield from load(c, c[1])
    yield from store(c, c[1], seen)
    return c[0] >> 12
"""


def write_scenario(
    folder: Path, *cpus: list[str], setup: tuple[str, ...] = (), mapped: bool = True, name: str = "own.toml"
) -> Path:
    """Write a scenario in which two pages have been mapped, and are not any more."""
    makes_table = ("vmap(page=0, nr_pages=2, max_page_shift='pte')", "vunmap(page=0, nr_pages=2)") if mapped else ()
    lines = ['arch = "arm64"', 'page_size = "4K"', "levels = 4", "fanout = 2"]
    lines += [f"setup = {json.dumps([*makes_table, *setup])}", "cpus = [", *(f"    {json.dumps(one)}," for one in cpus)]
    (folder / name).write_text("\n".join([*lines, "]", ""]))
    return folder / name


@pytest.fixture(scope="session")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the small kernel with mm/lookup.c."""
    return small.build_image(tmp_path_factory.mktemp("walkers"), objects=("mm/lookup.o",))


@pytest.fixture
def verify(commands: Commands, walkers: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    def run(*arguments: str, memory: str = "sc") -> Ended:
        return commands.run(
            "verify", "--image", walkers, "-s", "./own.toml", "--memory", memory, *arguments, cwd=tmp_path
        )

    return run


@pytest.mark.always
@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_a_walker_that_reads_twice_is_found_beside_a_promotion(verify, tmp_path: Path, memory: str) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [PROMOTES], [LOOKUP])
    done = verify(memory=memory)
    assert (done.status, done.err) == (1, "")
    assert "in lookup_kernel_address, " in done.out or "BUG: wild-access in" in done.out
    assert " lookup_kernel_address  mm/lookup.c:" in done.out
    assert f"  CPU 1: {LOOKUP}" in done.out


@pytest.mark.always
@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_with_the_lock_it_is_safe(verify, tmp_path: Path, memory: str) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [PROMOTES], [LOCKS, LOOKUP, UNLOCKS])
    done = verify("--json", memory=memory)
    assert (done.status, done.err) == (0, "")
    data = json.loads(done.out)
    run = data["runs"][0]
    assert (run["verdict"], run["complete"], run["missing"]) == ("safe", True, [])
    assert run["met"] == ["promotion", "table-freed", "walked-table-freed"]
    assert data["boundary"] is None


@pytest.mark.always
def test_what_decides_how_a_call_ends_is_read_though_another_call_follows(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A load whose value 0 leads to the end of the call was once taken for one of which nothing comes."""
    looks_up = "call(function='vmalloc_to_page', arguments=['page:0'])"
    write_scenario(tmp_path, [PROMOTES], [looks_up, LOCKS, UNLOCKS])
    done = verify()
    assert done.status == 1 and "BUG: " in done.out and " vmalloc_to_page  mm/vmalloc.c:" in done.out


def test_one_that_meets_nothing_of_the_promotion_is_vacuous(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [PROMOTES], [LOOKUP.replace("page:0", "page:2")])
    done = verify()
    assert done.status == 1
    assert "vacuous: in no schedule a table was freed that a walk had read" in done.out


def test_a_freer_by_name_and_a_call_at_boot(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    free = "call(function='pud_free_pmd_page', arguments=['pud:0', 'page:0'])"
    clear = "call(function='clear_entry', arguments=['pmd:2'])"
    block = "vmap(page=2, nr_pages=2, max_page_shift='pmd')"
    write_scenario(tmp_path, [free], setup=(block, clear))
    done = verify("--json", memory="arm64")
    assert (done.status, done.err) == (0, "")
    run = json.loads(done.out)["runs"][0]
    assert run["met"] == ["table-freed", "walked-table-freed"]
    # 512 PMDs are read, and no other CPU writes them
    assert run["states"] < 50


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("call(function='no_such_walker')", "the image has no no_such_walker"),
        ("call(function='account_lookup', arguments=[0, 0])", "account_lookup is not in the image: give its object by"),
        ("call(function='init_mm')", "init_mm is no function"),
        (LOOKUP.replace("page:0", "page:8"), "page 8 is past the last address of the image"),
        (
            "call(function='vmalloc_to_page')",
            "struct page *vmalloc_to_page(void *va) takes 1 arguments, not 0",
        ),
        ("call(function='up_read', arguments=['&init_nn'])", "the image has no init_nn"),
        ("call(function='up_read', arguments=['&init_mm.lock'])", "struct mm_struct has no member lock"),
    ],
)
def test_what_the_image_does_not_have_is_named(verify, tmp_path: Path, call: str, said: str) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [PROMOTES], [call])
    done = verify()
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "--image: scenario own.toml: call(function=" in done.err and said in done.err


def test_an_entry_that_is_not_there_is_named(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, ["call(function='clear_entry', arguments=['pmd:0'])"], mapped=False)
    done = verify()
    assert (done.status, done.out) == (2, "")
    assert done.err == "fuzzvm: there is no pmd:0 when it is asked for: no table leads there\n"


def test_what_the_kernel_maps_elsewhere_is_refused_and_no_bug(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, ["call(function='read_through_fixmap')"])
    done = verify()
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert f"mm/lookup.c:{line_of('(1ul << 23)')}: read_through_fixmap" in done.err
    assert "in the fixmap, which is not followed" in done.err


@pytest.mark.always
def test_the_model_refuses_a_function_by_its_name(commands: Commands, tmp_path: Path) -> None:
    write_scenario(tmp_path, [PROMOTES], [LOOKUP])
    done = commands.run("verify", "-m", "none", "-s", "./own.toml", "-j", "1", cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "fuzzvm: own.toml: lookup_kernel_address() is called by name, which compiled code can alone: "
        "fuzzvm verify --image DIR\n"
    )


def test_a_wrong_argument_is_named_with_file_and_line(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [PROMOTES], [LOOKUP.replace("page:0", "pfn:0")])
    done = verify()
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "own.toml:8: CPU 1, call 1: argument 1 must be a number, 'page:N', " in done.err


# Boundary functions of the user's


@pytest.mark.always
def test_a_function_that_nobody_has_is_the_users(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [LOCKS, ACCOUNTS, UNLOCKS])
    done = verify()
    assert (done.status, done.out) == (2, "")
    assert "account_lookup is called, which the image does not define and nobody stands for" in done.err
    (tmp_path / "mine.py").write_text(GOOD)
    done = verify("--boundary", "mine.py", "--json")
    assert (done.status, done.err) == (0, "")
    data = json.loads(done.out)
    digest = hashlib.sha256(GOOD.encode()).hexdigest()
    assert data["boundary"] == {"file": "mine.py", "sha256": digest, "functions": ["account_lookup"]}
    assert data["runs"][0]["verdict"] == "safe"


def test_what_it_writes_and_returns_is_what_the_code_sees(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [ACCOUNTS])
    (tmp_path / "mine.py").write_text(GOOD.replace("c[1], seen)", "c[1], 1)"))
    done = verify("--boundary", "mine.py")
    assert done.status == 1 and "BUG: kernel-bug in lookup_and_account" in done.out
    assert f"BUG() at mm/lookup.c:{line_of('BUG();')}" in done.out


def line_of(text: str) -> int:
    lines = (small.SOURCES / "mm/lookup.c").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_the_one_of_the_documentation_is_right(verify, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = (Path(__file__).parents[2] / "docs/compiled.md").read_text()
    text = page.partition(":caption: boundary.py\n\n")[2].partition("```")[0]
    counts = "call(function='lookup_counted', arguments=['page:0', [0]])"
    write_scenario(tmp_path, [counts], [counts, counts])
    (tmp_path / "mine.py").write_text(text)
    done = verify("--boundary", "mine.py", memory="arm64")
    assert (done.status, done.err) == (0, "")
    (tmp_path / "mine.py").write_text(text.replace("c[0], number + 1", "c[0], number + 2"))
    assert "BUG: kernel-bug in lookup_counted" in verify("--boundary", "mine.py", memory="arm64").out


TRYLOCK = """\
from fuzzvm.compiled.run.primitives import Order, compare_exchange, load


def down_read_trylock(c):
    old = yield from load(c, c[0])
    if old & 1:
        return False
    return (yield from compare_exchange(c, c[0], old, old + 256, order=Order.ACQUIRE)) == old
"""


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (TRYLOCK, 0, "own.toml  sc      safe"),
        (TRYLOCK.replace("if old & 1:", "if False:"), 1, "BUG: "),
        ("def down_read_trylock(c):\n    yield from ()\n    return 0\n", 1, "vacuous"),
    ],
)
def test_it_goes_before_what_the_image_has(verify, tmp_path: Path, text: str, status: int, said: str) -> None:  # type: ignore[no-untyped-def]
    write_scenario(tmp_path, [PROMOTES], ["cat_kernel_page_tables()"])
    (tmp_path / "mine.py").write_text(text)
    done = verify("--boundary", "mine.py")
    assert (done.status, done.err) == (status, "")
    assert said in done.out


STARTS = "from fuzzvm.compiled.run.primitives import load, store, symbol\nimport os, random\nN = [0]\n\n\n"


@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        pytest.param("yield from ()\n    raise ValueError('mine')", 8, "ValueError: mine", marks=pytest.mark.always),
        ("while True:\n        yield from load(c, c[1])", 0, "no-progress"),
        ("return 0", 6, "account_lookup is no generator; a boundary function yields"),
        ("load(c, c[1])\n    yield from ()", 7, "load() without `yield from` does nothing: it is a generator"),
        ("yield load(c, c[1])", 7, "yielded load(), which is a generator: `yield from` runs it"),
        ("yield 5", 7, "yielded 5, which is no operation"),
        ("yield from ()\n    return 'x'", 0, "account_lookup() is stated to return 'x', which is no number"),
        ("yield from load(c, c[1], 3)", 7, "an access of 3 bytes: 1, 2, 4 and 8 are possible"),
        ("yield from ()\n    return c[9]", 8, "IndexError"),
        (
            "N[0] += 1\n    n = N[0]\n    while n:\n        yield from load(c, symbol(c, 'init_mm'))\n        n -= 1",
            0,
            "does not do the same",
        ),
        ("yield from ()\n\n\ndef accountlookup(c):\n    yield from ()", 10, "the image has no accountlookup"),
        ("yield from ()\n\n\ndef clear_entry():\n    yield from ()", 10, "clear_entry must take the caller alone"),
        ("yield from ()\n\n\n1 / 0", 10, "ZeroDivisionError: division by zero"),
        ("yield from (", 7, "SyntaxError: '(' was never closed"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(verify, tmp_path: Path, body: str, line: int, said: str) -> None:  # type: ignore[no-untyped-def]
    """A verdict is never what comes of it, but for code that makes no progress."""
    write_scenario(tmp_path, [ACCOUNTS])
    (tmp_path / "mine.py").write_text(f"{STARTS}def account_lookup(c):\n    {body}\n")
    done = verify("--boundary", "mine.py", "--hook-seconds", "1")
    if said == "no-progress":
        assert done.status == 1 and "BUG: no-progress" in done.out
        return
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert said in done.err and "defect" not in done.err
    assert f"mine.py:{line}:" in done.err if line else "mine.py" in done.err or "account" in done.err


@pytest.mark.always
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os._exit(0)", "exit status 0 in the middle of its work, perhaps by os._exit in "),
        ("while True:\n        pass", "mine.py:8: account_lookup has neither yielded nor returned for 1 seconds"),
    ],
)
def test_one_that_ends_the_process_or_never_ends_is_named(tmp_path: Path, walkers: Path, body: str, said: str) -> None:
    write_scenario(tmp_path, [ACCOUNTS])
    (tmp_path / "mine.py").write_text(f"{STARTS}def account_lookup(c):\n    yield from ()\n    {body}\n")
    given = ("verify", "--image", str(walkers), "-s", "./own.toml", "--boundary", "mine.py", "--hook-seconds", "1")
    done = fuzzvm(*given, cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert said in done.stderr and "mine.py" in done.stderr


def test_boundary_functions_are_of_images(commands: Commands, tmp_path: Path, walkers: Path) -> None:
    done = commands.run("verify", "--boundary", "mine.py", cwd=tmp_path)
    assert (done.status, done.out) == (2, "") and "--boundary needs --image" in done.err
    done = commands.run("verify", "--image", walkers, "--boundary", "mine.py", cwd=tmp_path)
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "mine.py" in done.err
