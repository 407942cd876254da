"""`fuzzvm image` as users call it, on the small kernel: a tree, an archive, a patch, objects, a kernel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.compiled.image import load
from fuzzvm.kbuild import source
from fuzzvm.kbuild.arch import ARM64
from tests.campaigns.killing import children
from tests.compiled import small

pytestmark = small.needs_compiler
NO_LOCK = """\
--- a/mm/vmalloc.c
+++ b/mm/vmalloc.c
@@ -61,10 +61,8 @@ static bool vmap_try_huge_pmd(pmd_t *pmd, u64 addr, u64 end, phys_addr_t phys, p
 \tif (!(pmd->pmd & PTE_VALID))
 \t\treturn pmd_set_huge(pmd, phys, prot);
 #ifndef NO_TRYLOCK
-\tif (!down_read_trylock(&init_mm.mmap_lock))
-\t\treturn 0;
 #endif
 \tif (pmd_free_pte_page(pmd, addr))
 \t\tdone = pmd_set_huge(pmd, phys, prot);
 #ifndef NO_TRYLOCK
 \tup_read(&init_mm.mmap_lock);
"""
HEADER = """\
--- a/include/small.h
+++ b/include/small.h
@@ -155,3 +155,3 @@
-#define HAS_LSE_ATOMICS "2"
+#define HAS_LSE_ATOMICS "2" /* patched */
 #define HAS_OTHER "3"
 #define HAS_WRITTEN "4"
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fuzzvm", "image", *map(str, arguments)]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=os.environ | environment, check=False
    )


def build(out: Path, *arguments: object, tree: Path = small.SOURCES) -> dict[str, Any]:
    ran = run("build", "--tree", tree, "-o", out, "-j2", "--json", *arguments)
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
    return dict(json.loads(ran.stdout))


def fails(*arguments: object, **environment: str) -> str:
    """Return the one line that a command fails with."""
    ran = run(*arguments, **environment)
    assert ran.returncode == 2 and ran.stdout == "" and ran.stderr.count("\n") == 1, (ran.stdout, ran.stderr)
    return ran.stderr.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("built") / "image"
    return folder, build(folder)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return small.copy_tree(tmp_path / "tree")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# what it is made from


def test_a_tree_is_built_and_left_as_it_is(built: tuple[Path, dict[str, Any]], tree: Path, tmp_path: Path) -> None:
    folder, data = built
    for path in tree.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    before = source.stamp(tree)
    out = tmp_path / "out"
    ran = run("build", "--tree", tree, "-o", out)
    assert ran.returncode == 0 and ran.stderr == ""
    first, left_out, second = ran.stdout.splitlines()
    assert left_out.startswith("not in this kernel: mm/pgtable-generic.o, ")
    assert first.startswith(f"{out}: Linux 7.99.1-small for arm64, 4K pages, 3 levels, lse, aarch64-linux-gnu-gcc")
    # equal code is known as such, wherever it was built
    assert second == f"digest {data['digest']}"
    assert source.stamp(tree) == before
    for path in tree.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)
    for name in ("layout", "references", "types", "lines"):
        assert (out / f"index/{name}.json").read_bytes() == (folder / f"index/{name}.json").read_bytes()
    assert json.loads((folder / "image.json").read_text()) == data
    assert data["kind"] == "tree" and data["patches"] == [] and data["features"] == ["HAS_LSE_ATOMICS"]


def test_what_has_not_changed_is_not_built_again(tree: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "out", tree=tree)
    log = (tmp_path / "out/build.log").stat().st_mtime_ns
    assert build(tmp_path / "out", tree=tree) == first
    assert (tmp_path / "out/build.log").stat().st_mtime_ns == log
    # a comment: other sources, and the same code
    with (tree / "mm/vmalloc.c").open("a") as written:
        written.write("/* more */\n")
    second = build(tmp_path / "out", tree=tree)
    assert second["digest"] == first["digest"] and second["sources"] != first["sources"]
    assert (tmp_path / "out/build.log").stat().st_mtime_ns > log
    assert "  CC      mm/ptdump.o" not in (tmp_path / "out/build.log").read_text()


@pytest.mark.slow
def test_a_file_that_is_older_than_the_objects_is_seen_to_have_changed(tree: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "out", tree=tree)
    other = (tree / "mm/vmalloc.c").read_text().replace("return -12;", "return -11;")
    os.utime(write(tree / "mm/vmalloc.c", other), (1, 1))
    assert build(tmp_path / "out", tree=tree)["digest"] != first["digest"]


def test_an_archive(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    archive = tmp_path / "linux-source-7.99.tar.xz"
    with tarfile.open(archive, "w:xz") as written:
        written.add(small.SOURCES, "linux-source-7.99")
    data = build(tmp_path / "out", tree=archive)
    assert data["kind"] == "archive" and data["digest"] == built[1]["digest"] and data["sources"] == built[1]["sources"]
    assert not (tmp_path / "out/source").exists()


def test_a_tree_that_was_built_in(built: tuple[Path, dict[str, Any]], tree: Path, tmp_path: Path) -> None:
    (tree / "include/config").mkdir()
    for name in (".config", "mm/vmalloc.o", "mm/.vmalloc.o.cmd", "include/config/auto.conf"):
        write(tree / name, "CONFIG_SMALL_NO_TRYLOCK=y\n")
    before = source.stamp(tree)
    assert build(tmp_path / "out", tree=tree)["digest"] == built[1]["digest"]
    assert source.stamp(tree) == before


def test_a_patch_is_applied_to_a_copy(built: tuple[Path, dict[str, Any]], tree: Path, tmp_path: Path) -> None:
    before = source.stamp(tree)
    patches = [write(tmp_path / "no-lock.patch", NO_LOCK), write(tmp_path / "header.patch", HEADER)]
    data = build(tmp_path / "out", "--patch", patches[0], "--patch", patches[1], tree=tree)
    assert source.stamp(tree) == before
    assert [patch["name"] for patch in data["patches"]] == list(map(str, patches))
    assert data["digest"] != built[1]["digest"]
    ran = run("show", tmp_path / "out", "--entry", "vmap_page_range", "--json")
    assert "down_read_trylock" in {function["name"] for function in json.loads(ran.stdout)["functions"]}
    # without patches again, in the same folder
    assert build(tmp_path / "out", tree=tree)["digest"] == built[1]["digest"]
    assert source.stamp(tree) == before


def test_objects_that_the_user_has_built(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, data = built
    ran = run("build", "--objects", folder / "build", "-o", tmp_path / "out", "--json")
    given = json.loads(ran.stdout)
    assert ran.returncode == 0 and given["kind"] == "objects" and given["digest"] == data["digest"]
    assert given["compiler"] == data["compiler"] and given["kernel"] == "7.99.1-small"
    llsc = json.loads(
        run("build", "--objects", folder / "build", "-o", tmp_path / "out", "--atomics", "ll-sc", "--json").stdout
    )
    assert llsc["digest"] != data["digest"] and llsc["features"] == []
    empty = tmp_path / "empty"
    empty.mkdir()
    assert ".config: No such file" in fails("build", "--objects", empty, "-o", tmp_path / "none")
    shutil.copytree(folder / "build", tmp_path / "some")
    (tmp_path / "some/mm/ptdump.o").unlink()
    some = json.loads(run("build", "--objects", tmp_path / "some", "-o", tmp_path / "out2", "--json").stdout)
    assert "mm/ptdump.o" in some["left_out"] and "mm/ptdump.o" not in some["objects"]
    write(tmp_path / "some/mm/vmalloc.o", "no object")
    said = fails("build", "--objects", tmp_path / "some", "-o", tmp_path / "out2")
    assert "ld fails" in said and "some/mm/vmalloc.o:" in said


def test_a_kernel_that_the_user_has_built(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """arm64's is linked as a shared object: the addresses in its data are left to the kernel's start."""
    folder, _ = built
    user = tmp_path / "user"
    shutil.copytree(folder / "build", user)
    script = (user / "image.lds").read_text()
    script = script.replace("  /DISCARD/ :", "  .rela.dyn : { *(.rela .rela.*) }\n  /DISCARD/ :")
    link = [f"{ARM64.cross}ld", "-shared", "-Bsymbolic", "-z", "notext", "--no-apply-dynamic-relocs", "-e", "0"]
    link += ["-T", str(write(tmp_path / "vmlinux.lds", script)), "-o", str(user / "vmlinux"), str(user / "partial.o")]
    subprocess.run(link, check=True, capture_output=True)
    ran = run("build", "--vmlinux", user / "vmlinux", "-o", tmp_path / "out", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["kind"] == "vmlinux"
    for entry in ("ptdump_walk", "vmap_page_range"):
        theirs, ours = (
            json.loads(run("show", image, "--entry", entry, "--json").stdout) for image in (tmp_path / "out", folder)
        )
        assert theirs["functions"] == ours["functions"] and theirs["mnemonics"] == ours["mnemonics"]
        assert theirs["bugs"] == ours["bugs"] != [] and theirs["jump_sites"] == ours["jump_sites"]
    image = load(tmp_path / "out")
    pointer = image.read(image.symbol("init_mm").address, 8)
    assert int.from_bytes(pointer, "little") == image.symbol("swapper_pg_dir").address
    subprocess.run([f"{ARM64.cross}strip", "-g", user / "vmlinux"], check=True)
    assert "has no debug information" in fails("build", "--vmlinux", user / "vmlinux", "-o", tmp_path / "out")


# what is wrong with what is given


def test_what_does_not_apply_is_named_by_its_hunk(tmp_path: Path) -> None:
    path = write(tmp_path / "x.patch", NO_LOCK.replace("\treturn pmd_set_huge(pmd", "\treturn frob(pmd"))
    said = fails("build", "--tree", small.SOURCES, "--patch", path, "-o", tmp_path / "out")
    assert said.startswith(
        f"fuzzvm: {path} does not apply: hunk 1 of mm/vmalloc.c, @@ -61,10 +61,8 @@ static bool vmap"
    )


def test_what_does_not_compile_is_named_by_the_compilers_first_error(tmp_path: Path) -> None:
    wrong = NO_LOCK.replace(" #ifndef NO_TRYLOCK\n-", "+\tfrob();\n #ifndef NO_TRYLOCK\n-", 1)
    path = write(tmp_path / "x.patch", wrong.replace("-61,10 +61,8", "-61,10 +61,9"))
    said = fails("build", "--tree", small.SOURCES, "--patch", path, "-o", tmp_path / "out")
    assert re.search(r"mm/vmalloc\.c:\d+:\d+: error: implicit declaration of function 'frob'.*build\.log", said)
    assert "holds no image" in fails("show", tmp_path / "out")


def test_an_error_that_is_mended_costs_no_more(tree: Path, tmp_path: Path) -> None:
    build(tmp_path / "out", tree=tree)
    right = (tree / "mm/ptdump.c").read_text()
    write(tree / "mm/ptdump.c", right + "frob\n")
    assert "mm/ptdump.c:" in fails("build", "--tree", tree, "-o", tmp_path / "out")
    write(tree / "mm/ptdump.c", right + "int mended;\n")
    build(tmp_path / "out", tree=tree)
    log = (tmp_path / "out/build.log").read_text()
    assert "  CC      mm/ptdump.o" in log and "  CC      mm/vmalloc.o" not in log


def test_no_compiler_is_named_by_its_package(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("make", "flex", "bison", "bc", "gcc", "ld", "xz", "sh", "nice"):
        write(tools / name, "#!/bin/sh\n").chmod(0o755)
    say = ("build", "--tree", small.SOURCES, "-o", tmp_path / "out")
    assert fails(*say, PATH=str(tools)) == "fuzzvm: packages are missing: apt-get install gcc-aarch64-linux-gnu"
    (tools / "bison").unlink()
    assert "apt-get install bison gcc-aarch64-linux-gnu" in fails(*say, PATH=str(tools))
    write(tools / "aarch64-linux-gnu-gcc", "#!/bin/sh\n").chmod(0o755)
    write(tools / "bison", "#!/bin/sh\n").chmod(0o755)
    assert fails(*say, "--cc", "clang", PATH=str(tools)) == "fuzzvm: packages are missing: apt-get install clang"
    assert "apt-get install gcc-13-aarch64-linux-gnu" in fails(*say, "--cc", "gcc-13", PATH=str(tools))
    assert "'--cc': must be gcc or clang" in fails(*say, "--cc", "tcc")


def test_an_old_compiler_is_said_to_be(tree: Path, tmp_path: Path) -> None:
    write(tree / "scripts/min-tool-version.sh", "echo 99.1.0\n")
    said = fails("build", "--tree", tree, "-o", tmp_path / "out")
    assert "this tree needs gcc 99.1.0 or newer, and aarch64-linux-gnu-gcc is " in said


@pytest.mark.slow
def test_what_cannot_be_built_is_one_line(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    say = ("build", "--tree", tree, "-o", out)
    assert "give one of --tree, --objects and --vmlinux" in fails("build", "-o", out)
    assert "give one of" in fails(*say, "--vmlinux", tree / "Makefile")
    assert f"{tmp_path}/none does not exist" in fails("build", "--tree", tmp_path / "none", "-o", out)
    assert "must lie apart" in fails("build", "--tree", tree, "-o", tree / "out")
    assert "levels must be one of 2, 3, 4 on arm64 with 16K pages" in fails(*say, "--page-size", "16K", "--levels", "5")
    assert "this kernel knows no CPU feature HAS_FROB" in fails(*say, "--feature", "HAS_FROB")
    assert "make has made no mm/frob.o: this tree does not know it" in fails(*say, "--object", "mm/frob.o")
    assert "../frob.o is no object of a kernel" in fails(*say, "--object", "../frob.o")
    assert "does not take CONFIG_FROB=y" in fails(*say, "--config", write(tmp_path / "frob", "CONFIG_FROB=y\n"))
    off = write(tmp_path / "off", "CONFIG_ARM64_USE_LSE_ATOMICS=n\n")
    assert "CONFIG_ARM64_USE_LSE_ATOMICS is off: this kernel has --atomics ll-sc only" in fails(*say, "--config", off)
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine/file", "")
    assert "is not empty, and nothing that `fuzzvm image build` made" in fails(*say[:-1], tmp_path / "mine")
    (tree / "Kbuild").unlink()
    assert "is no kernel tree" in fails(*say)
    spaced = small.copy_tree(tmp_path / "my tree")
    assert "make does not take names with spaces or colons" in fails("build", "--tree", spaced, "-o", out)


def test_options_of_the_users_own(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "CONFIG_ARM64_16K_PAGES=y\nCONFIG_ARM64_VA_BITS_36=y\n")
    # what is said on the command line counts more
    data = build(tmp_path / "out", "--config", config, "--page-size", "64K", "--levels", "3")
    assert (data["page_size"], data["levels"]) == ("64K", 3)
    data = build(tmp_path / "out", "--config", config)
    assert (data["page_size"], data["levels"]) == ("16K", 2)


# how it ends


class Held:
    """A build that is held in the middle, with half of mm/ptdump.o written."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.hold = write(folder / "hold", "")
        self.there = folder / "hold.there"
        self.there.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            command("build", *arguments),
            env=os.environ | {"SMALL_HOLD": str(self.hold)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a test that runs in the background of a shell ignores it, and its children would too
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        while not self.there.exists():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def makes(self) -> list[int]:
        """Return the processes of make that know of this build."""
        listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        found = [line.split(None, 1) for line in listed.splitlines()]
        return [int(pid) for pid, args in found if args.startswith("make") and str(self.hold.parent) in args]

    def gone(self) -> None:
        """Wait until nothing of the build runs."""
        while self.makes():
            time.sleep(0.02)
        self.hold.unlink()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Any]:
    begun: list[Held] = []

    def begin(*arguments: object) -> Held:
        begun.append(Held(tmp_path, *arguments))
        return begun[-1]

    yield begin
    for build in begun:
        build.hold.unlink(missing_ok=True)
        build.process.kill()
        build.process.communicate()


def test_ctrl_c_ends_it_cleanly(held: Any, tmp_path: Path, built: tuple[Path, dict[str, Any]]) -> None:
    out = tmp_path / "out"
    build_held = held("--tree", small.SOURCES, "-o", out, "-j1")
    assert "another `fuzzvm image build` is at work in" in fails("build", "--tree", small.SOURCES, "-o", out)
    build_held.process.send_signal(signal.SIGINT)
    stdout, stderr = build_held.process.communicate()
    assert (build_held.process.returncode, stdout, stderr) == (130, "", "\nfuzzvm: interrupted\n")
    # all has ended by then
    assert build_held.makes() == [] and not (out / "tmp").exists()
    build_held.hold.unlink()
    assert "holds no image" in fails("show", out)
    assert build(out)["digest"] == built[1]["digest"]


@pytest.mark.parametrize("with_make", [False, True])
def test_what_was_killed_goes_on(
    with_make: bool, held: Any, tmp_path: Path, built: tuple[Path, dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    build_held = held("--tree", small.SOURCES, "-o", out, "-j1")
    for pid in build_held.makes() if with_make else []:
        os.kill(pid, signal.SIGKILL)
    build_held.process.kill()
    build_held.process.wait()
    build_held.gone()
    done = (out / "build/mm/vmalloc.o").stat().st_mtime_ns
    assert build(out)["digest"] == built[1]["digest"]
    # what was made before is not made again
    assert (out / "build/mm/vmalloc.o").stat().st_mtime_ns == done


@pytest.mark.slow
def test_half_an_object_of_a_second_build_is_not_taken_for_a_whole(held: Any, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, tree=tree)
    header = tree / "include/small.h"
    write(header, header.read_text().replace("u64 unused[4];", "u64 unused[12];"))
    build_held = held("--tree", tree, "-o", out, "-j1")
    # all at once: nobody may clean up after another, and make removes half an object when it is asked to end
    everybody = [build_held.process.pid, *children(build_held.process.pid)]
    for pid in everybody:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    build_held.process.wait()
    build_held.gone()
    assert (out / "build/mm/ptdump.o").read_text() == "half\n"
    build(out, tree=tree)
    assert (out / "build/mm/ptdump.o").read_bytes()[:4] == b"\x7fELF" and load(out).types.size("page") == 128


def test_a_tree_that_changes_meanwhile_is_said_to(held: Any, tree: Path, tmp_path: Path) -> None:
    build_held = held("--tree", tree, "-o", tmp_path / "out")
    write(tree / "mm/frob.c", "")
    build_held.hold.unlink()
    _, stderr = build_held.process.communicate()
    assert build_held.process.returncode == 2
    assert stderr == f"fuzzvm: {tree} has changed while it was built: build again\n"


# show


def test_show(built: tuple[Path, dict[str, Any]]) -> None:
    folder, data = built
    ran = run("show", folder)
    assert ran.returncode == 0 and ran.stderr == ""
    assert ran.stdout.startswith("Linux 7.99.1-small for arm64, 4K pages, 3 levels, lse; aarch64-linux-gnu-gcc")
    for text in (
        "1 weak functions, which another object may replace: arch_vmap_pmd_supported",
        "6 boundary functions: __free_pages, ",
        "alternatives: HAS_LSE_ATOMICS",
        "1 static-key sites",
        "3 WARN, 1 BUG",
    ):
        assert text in ran.stdout
    assert ran.stdout.endswith("not supported: nothing\n")
    shown = json.loads(run("show", folder, "--json").stdout)
    assert shown["image"] == data and shown["instructions"] == sum(f["instructions"] for f in shown["functions"])
    assert shown["unsupported"] == [] and shown["jump_sites"][0]["key"] == "huge_vmap_disabled"
    callers = {item["name"]: item["callers"] for item in shown["boundary"]}
    assert callers["alloc_pages_node_noprof"] == ["populate"]


def test_show_begins_where_it_is_told_to(built: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = built
    shown = json.loads(run("show", folder, "--entry", "ptdump_walk", "--boundary", "ptdump_walk_pgd", "--json").stdout)
    assert [function["name"] for function in shown["functions"]] == ["note_page", "ptdump_walk"]
    assert {item["name"]: item["defined"] for item in shown["boundary"]} == {"_printk": False, "ptdump_walk_pgd": True}
    assert "the image has no frob" in fails("show", folder, "--entry", "frob")


def test_show_says_what_is_not_supported(tmp_path: Path) -> None:
    build(tmp_path / "out", "--feature", "HAS_WRITTEN")
    ran = run("show", tmp_path / "out", "--entry", "written_at_boot")
    assert ran.returncode == 1
    assert (
        "not supported: 1\n  written_at_boot" in ran.stdout and "code that write_at_boot writes at boot" in ran.stdout
    )


@pytest.mark.parametrize(("module", "package"), [("elftools", "pyelftools"), ("capstone", "capstone")])
def test_a_package_that_is_missing_is_named(
    module: str, package: str, built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from fuzzvm.cli.main import main; main()"
    say = {"elftools": ["build", "--tree", small.SOURCES, "-o", tmp_path / "out"], "capstone": ["show", built[0]]}
    ran = subprocess.run(
        [sys.executable, "-c", code, "image", *map(str, say[module])], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2 and ran.stderr.endswith(f"needs {package}: pip install 'fuzzvm[compiled]'\n")


TREE = os.environ.get("FUZZVM_LINUX_TREE", "")


@pytest.mark.skipif(not TREE, reason="FUZZVM_LINUX_TREE names no kernel source")
@pytest.mark.parametrize(
    "arguments", [(), ("--cc", "clang", "--page-size", "64K"), ("--atomics", "ll-sc", "--levels", "4")]
)
def test_a_real_kernel(arguments: tuple[str, ...], tmp_path: Path) -> None:
    tree = Path(TREE)
    before = source.stamp(tree)
    data = build(tmp_path / "out", *arguments, tree=tree)
    assert source.stamp(tree) == before and not data["left_out"]
    shown = json.loads(run("show", tmp_path / "out", "--json").stdout)
    names = {function["name"].partition(".")[0] for function in shown["functions"]}
    assert {"vmap_page_range", "ptdump_walk_pgd", "ptdump_pte_entry", "note_page", "pmd_free_pte_page"} <= names
    assert shown["unsupported"] == [] and 20 <= len(shown["boundary"]) <= 40
