"""Test cases of kernel images as users have them: saved, replayed elsewhere, explained, minimised, kept in a corpus."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner

from fuzzvm.compiled.manifest import read as read_manifest
from fuzzvm.corpus.format import read
from fuzzvm.images.given import image_code
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.execution import Execution, Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.remarks import StaleRead
from fuzzvm.machine.schedule import context_switches
from fuzzvm.realkernel import image_plan
from fuzzvm.realkernel import replay as replaying
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.outcome import Outcome, Result
from fuzzvm.realkernel.places import Entry
from fuzzvm.realkernel.plan import Access, TableFreed
from tests.cli.running import fuzzvm
from tests.compiled import small
from tests.realkernel import fake_qemu

pytestmark = small.needs_compiler

START = 0xFFFF_FFE0_0000_0000
PROMOTION = ("-s", "pmd-promotion", "--memory", "sc")


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of the small kernel without its lock."""
    return small.build_image(tmp_path_factory.mktemp("without-lock"), config=small.FRAGMENT)


@pytest.fixture(scope="session")
def saved(broken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What verify has saved of it."""
    folder = tmp_path_factory.mktemp("saved")
    done = fuzzvm("verify", "--image", str(broken), *PROMOTION, "--save", str(folder), "--json")
    assert (done.returncode, done.stderr) == (1, "")
    (run,) = json.loads(done.stdout)["runs"]
    (file,) = folder.iterdir()
    assert run["saved"] == str(file)
    case = read(file)
    assert (case.expect.error, case.expect.function) == (run["bug"], run["function"])
    assert context_switches(case.schedule) == run["context_switches"]
    return file


@pytest.fixture(scope="session")
def all_saved(broken: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What verify has saved of all its errors, by error."""
    folder = tmp_path_factory.mktemp("all-saved")
    done = fuzzvm("verify", "--image", str(broken), *PROMOTION, "--all-errors", "--save", str(folder), "--json")
    assert (done.returncode, done.stderr) == (1, "")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["saved"] == run["errors"][0]["saved"] and run["bug"] == run["errors"][0]["bug"]
    assert all(error["proven_minimal"] for error in run["errors"])
    return {error["bug"]: Path(error["saved"]) for error in run["errors"]}


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of the small kernel as it should be."""
    return small.build_image(tmp_path_factory.mktemp("with-lock"))


@pytest.mark.always
def test_what_verify_saves_says_what_it_is_and_replays_in_another_process(broken: Path, saved: Path) -> None:
    case = read(saved)
    manifest = read_manifest(broken)
    assert case.image is not None
    assert (case.image.digest, case.image.kernel) == (manifest.digest, manifest.kernel)
    assert case.image.build.startswith(f"fuzzvm image build --tree {small.SOURCES}")
    assert saved.name.startswith(f"linux-{manifest.kernel.replace('.', '-')}-{manifest.digest[:8]}")
    done = fuzzvm("replay", str(saved), "--image", str(broken))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{saved}: ok, {case.expect}\n1 replayed, 0 not as expected\n"


@pytest.mark.always
def test_it_is_explained_in_the_steps_that_verify_counts(broken: Path, saved: Path) -> None:
    done = fuzzvm("explain", str(saved), "--image", str(broken))
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.search(r"^(\d+) steps, (\d+) context switches: ", done.stdout, re.MULTILINE)
    case = read(saved)
    assert shown is not None
    assert int(shown[1]) < len(case.schedule)
    assert int(shown[2]) == context_switches(case.schedule)
    assert f"BUG: {case.expect}" in done.stdout
    assert re.search(r"CPU 0  vmap_try_huge_pmd\(\)  mm/vmalloc.c:\d+", done.stdout)
    assert f"every access to shared memory counted: {len(case.schedule)} steps" in done.stdout


@pytest.mark.always
def test_it_is_a_page_with_the_source_lines_of_the_text(broken: Path, saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "story.html"
    done = fuzzvm("explain", str(saved), "--image", str(broken), "--html", str(page))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"written: {page}\n", "")
    shown = unescape(re.sub(r"<[^>]*>", "", page.read_text()))
    text = fuzzvm("explain", str(saved), "--image", str(broken)).stdout
    lines = re.findall(r"CPU \d  (\S+\(\))  (\S+:\d+)$", text, re.MULTILINE)
    assert len(lines) > 5
    assert all(f"{function} {place}" in shown for function, place in lines)
    steps = re.findall(r"^ +\d+    +(.*)$", text, re.MULTILINE)
    assert len(steps) >= 10
    assert all(step in shown for step in steps)


def test_a_run_with_more_switches_is_minimised(broken: Path, saved: Path, tmp_path: Path) -> None:
    """The saved run with its first CPU interrupted once more fails all the same, and has one switch too many."""
    long = saved.read_text().replace('schedule = "1*', 'schedule = "0 1*', 1)
    before = read(saved)
    first, second = re.search(r'schedule = "0 1\*\d+ 0\*(\d+)', long), tmp_path / "long.toml"
    assert first is not None
    second.write_text(long.replace(f"0*{first[1]}", f"0*{int(first[1]) - 1}", 1))
    assert context_switches(read(second).schedule) == context_switches(before.schedule) + 1
    done = fuzzvm("minimize", str(second), "--image", str(broken), "-o", str(tmp_path / "short.toml"))
    assert (done.returncode, done.stderr) == (0, "")
    after = read(tmp_path / "short.toml")
    assert "proven minimal" in done.stdout
    assert (after.schedule, after.expect) == (before.schedule, before.expect)


def test_fuzz_finds_it_and_saves_it_minimised(broken: Path, saved: Path, tmp_path: Path) -> None:
    done = fuzzvm(
        "fuzz", "--image", str(broken), *PROMOTION, "-e", "random", "--runs", "500", "--corpus", str(tmp_path)
    )
    assert (done.returncode, done.stderr) == (1, "")
    (file,) = tmp_path.iterdir()
    case, known = read(file), read(saved)
    assert case.expect.verdict == "bug"
    assert context_switches(case.schedule) == context_switches(known.schedule)
    assert f"saved: fuzzvm explain {file} --image {broken}" in done.stdout
    assert fuzzvm("replay", str(file), "--image", str(broken)).returncode == 0


def test_fuzz_finds_nothing_where_the_lock_is_taken(other: Path, tmp_path: Path) -> None:
    done = fuzzvm("fuzz", "--image", str(other), *PROMOTION, "-e", "pct", "--runs", "30", "--corpus", str(tmp_path))
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert "none found" in done.stdout


@pytest.mark.parametrize("command", ["replay", "explain", "minimize"])
def test_another_image_is_refused_by_both_digests(other: Path, broken: Path, saved: Path, command: str) -> None:
    digests = [read_manifest(folder).digest for folder in (broken, other)]
    done = fuzzvm(command, str(saved), "--image", str(other))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert all(digest in done.stderr for digest in digests)


def test_a_corpus_needs_the_image(broken: Path, other: Path, saved: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    refused = fuzzvm("corpus", "add", str(corpus), str(saved))
    assert refused.returncode == 1
    assert "runs only where --image DIR gives it; it is built by: fuzzvm image build --tree" in refused.stdout
    assert not corpus.exists() or not list(corpus.iterdir())
    added = fuzzvm("corpus", "add", str(corpus), str(saved), "--image", str(broken))
    assert added.returncode == 0, added.stdout
    assert fuzzvm("corpus", "check", str(corpus), "--image", str(broken), "--image", str(other)).returncode == 0
    for given, said in (((), "--image DIR"), (("--image", str(other)), read_manifest(other).digest)):
        checked = fuzzvm("corpus", "check", str(corpus), *given)
        assert checked.returncode == 1
        assert said in checked.stdout
    # without its code a file cannot be judged, so it stays
    kept = fuzzvm("corpus", "min", str(corpus))
    assert (kept.returncode, len(list(corpus.iterdir()))) == (1, 1)


def test_a_stress_program_of_compiled_code_says_what_was_run(broken: Path, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "stress"
    done = fuzzvm("export", str(saved), "--to", "stress", "--image", str(broken), "-o", str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"written: {out}\n", "")
    module = (out / "fuzzvm_stress.c").read_text()
    comment = module[: module.index("*/")]
    case = read(saved)
    assert f"{case.expect.error} in {case.expect.function}" in comment
    assert read_manifest(broken).digest[:12] in comment and "fuzzvm explain schedule.toml --image DIR" in comment
    assert "kernel replay" not in comment
    assert "pmd_free_pte_page()" in comment
    assert "do_vmap(at + 0x0UL, 0x200000UL" in module


def test_a_mail_about_an_image_is_complete_in_itself(broken: Path, saved: Path, tmp_path: Path) -> None:
    done = fuzzvm("mail", str(saved), "--image", str(broken))
    assert (done.returncode, done.stderr) == (0, "")
    text, _, file = done.stdout.partition("\nrace.toml\n---------\n\n")
    case = read(saved)
    assert case.image is not None and case.expect.error is not None
    lines = text.splitlines()
    assert lines[0].startswith(f"Subject: [BUG] {case.expect.error} in ptdump_pte_entry() (arm64, Linux")
    assert all(len(line) <= 72 or "/" in line for line in lines[1:])
    for part in (
        case.image.digest[:12],
        "mm/ptdump.c:",
        "fuzzvm image build",
        "fuzzvm verify --image DIR -s pmd-promotion",
    ):
        assert part in text
    assert re.search(r"^ +\d+ +write pmd\[0\] of table \d+ = none$", text, re.MULTILINE)
    (tmp_path / "race.toml").write_text(file)
    assert read(tmp_path / "race.toml") == case


@pytest.mark.always
def test_a_kernel_is_to_follow_the_page_tables_of_an_image(broken: Path, all_saved: dict[str, Path]) -> None:
    code = image_code(broken)
    plan = image_plan.make(read(all_saved["use-after-free-read"]), START, code)
    walk, promotion, failing = plan.segments()
    # more than one read of the PMD is one: another build reads it more or less often
    assert [(one.entry, one.write) for one in walk if isinstance(one, Access)] == [(Entry(Level.PMD, 0), False)]
    read_pmd, clear, free = promotion
    assert isinstance(read_pmd, Access) and isinstance(clear, Access) and isinstance(free, TableFreed)
    assert (read_pmd.write, clear.write) == (False, True)
    assert {read_pmd.entry, clear.entry, free.entry} == {Entry(Level.PMD, 0)}
    assert "pmd_free_pte_page" in free.stack and plan.window.address(512) == START + (512 << 12)
    (fails,) = failing
    assert isinstance(fails, Access) and fails.somewhere and fails.entry.level is Level.PTE
    assert fails.stack[0] == "ptdump_pte_entry"
    assert plan.passed_over + len(plan.expected) == plan.steps
    # the calls are at the pages of the scenario, two of which are a table of the kernel
    assert f"cpu 0 vmap {START:#x} 0x200000 0x40000000 0x200000 rw" in replaying.script(plan)
    with pytest.raises(NoCounterpartError, match=r"wild-access.*--all-errors"):
        image_plan.make(read(all_saved["wild-access"]), START, code)


def test_what_only_weak_memory_shows_is_not_followed(
    broken: Path, all_saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def weak(machine: Machine, chooser: Replay) -> Execution:
        done = execute(machine, chooser)
        assert machine.trace is not None
        machine.trace[2] = replace(machine.trace[2], remark=StaleRead(0, 0))
        return done

    monkeypatch.setattr(image_plan, "execute", weak)
    with pytest.raises(NoCounterpartError, match="step 3 needs memory weaker than sequential consistency"):
        image_plan.make(read(all_saved["use-after-free-read"]), START, image_code(broken))


def test_a_replay_of_an_image_on_a_kernel_is_kept_with_how_to_build_both(
    broken: Path, all_saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fuzzvm.cli.commands.kernel import kernel

    said = Outcome(Result.REPRODUCED, message="use-after-free", console=["Linux"], script=["start"])
    monkeypatch.setattr("fuzzvm.realkernel.replay.replay", lambda *given: said)
    # the kernel that is made up is of x86_64
    monkeypatch.setattr("fuzzvm.realkernel.replay.plan_of", lambda *given: None)
    file, folder = all_saved["use-after-free-read"], tmp_path / "kept"
    arguments = ["replay", str(file), "--kernel", str(fake_qemu.install_kernel(tmp_path)), "--save", str(folder)]
    ran = CliRunner().invoke(kernel, [*arguments, "--image", str(broken)], standalone_mode=False)
    assert ran.return_value == 0, ran.output
    assert "The image:" in ran.output and "mm/ptdump.c" in ran.output
    readme = (folder / "README").read_text()
    assert "    fuzzvm image build --tree" in readme and " -o IMAGE\n" in readme
    assert "fuzzvm kernel replay schedule.toml --image IMAGE --kernel OUT" in readme
    assert "mm/ptdump.c" in (folder / "story.txt").read_text()


def test_an_image_is_not_followed_on_a_kernel_of_another_geometry(
    broken: Path, all_saved: dict[str, Path], tmp_path: Path
) -> None:
    kernel = fake_qemu.install_kernel(tmp_path)
    file = str(all_saved["use-after-free-read"])
    done = fuzzvm("kernel", "replay", file, "--image", str(broken), "--kernel", str(kernel))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    # the image's levels, not those of the scenario
    assert "the test case is for arm64, 4K pages, 3 levels; the kernel is x86_64" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "FILE", "--to", "litmus"), "runs only where --image DIR gives it"),
        (("export", "FILE", "--to", "promela", "--image", "IMAGE"), "--to promela is not there for kernel images"),
        (("mail", "FILE"), "runs only where --image DIR gives it"),
        (("kernel", "replay", "FILE", "--kernel", "."), "runs only where --image DIR gives it"),
        (("replay", "FILE", "--mitigation", "none"), "runs only where --image DIR gives it"),
        (("explain", "FILE", "--image", "IMAGE", "--mitigation", "none"), "exclude each other"),
        (("fuzz", "--image", "IMAGE", "-e", "atheris"), "engine atheris is not there for images"),
        (("fuzz", "--image", "IMAGE", "--jobs", "2"), "--image and --jobs exclude each other"),
        (("fuzz", "--image", "IMAGE", "-s", "x86-pmd-promotion"), "it is of x86_64, and the image of arm64"),
    ],
)
def test_what_is_not_for_images_is_refused_in_one_line(
    broken: Path, saved: Path, arguments: tuple[str, ...], said: str
) -> None:
    places = {"FILE": str(saved), "IMAGE": str(broken)}
    done = fuzzvm(*(places.get(word, word) for word in arguments))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert said in done.stderr


def test_a_test_case_of_a_mitigation_has_no_image(broken: Path) -> None:
    file = next(Path("corpus/regressions").glob("none-use-after-free-read-*.toml"))
    done = fuzzvm("explain", str(file), "--image", str(broken))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fuzzvm: the test case is of mitigation none, and of no image\n"
