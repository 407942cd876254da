"""`fuzzvm kernel`: what is wrong is said in one line, and the real thing where there is a kernel to try it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fuzzvm.kbuild.packages import PROGRAMS
from fuzzvm.realkernel import tools
from tests.realkernel import fake_qemu
from tests.report.ktap_parser import parse

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "corpus" / "regressions"
X86_PMD = CORPUS / "none-use-after-free-read-4f5a29210ff8.toml"
ARM_PMD = CORPUS / "none-use-after-free-read-c77cd3c19dbc.toml"
KERNELS = {name: os.environ.get(f"FUZZVM_KERNEL_{name.upper()}", "") for name in ("x86_64", "arm64", "x86_64_fixed")}
"""Folders of `fuzzvm kernel build`; without promotion-lock for the first two."""


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", "kernel", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["packages", "build", "replay", "stress", "compare"])
def test_help_has_an_example(command: str) -> None:
    ran = run(command, "--help")
    assert ran.returncode == 0 and f"fuzzvm kernel {command} " in ran.stdout


def wrong(tmp_path: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    kernel = fake_qemu.install_kernel(tmp_path)
    return {
        "no tree": (
            ("build", "--tree", "nonesuch", "--arch", "arm64", "-o", tmp_path / "o"),
            "nonesuch does not exist",
        ),
        "page size": (
            ("build", "--tree", ROOT, "--arch", "x86_64", "--page-size", "16K", "-o", tmp_path / "o"),
            "x86_64 has no pages of 16K, only of 4K",
        ),
        "levels": (("build", "--tree", ROOT, "--arch", "arm64", "--levels", 7, "-o", tmp_path / "o"), "levels must be"),
        "no kernel": (("stress", "--kernel", tmp_path / "none"), "holds no kernel"),
        "other architecture": (("replay", ARM_PMD, "--kernel", kernel), "the test case is for arm64"),
        "no file": (("replay", tmp_path / "none.toml", "--kernel", kernel), "none.toml"),
    }


@pytest.mark.parametrize("what", ["no tree", "page size", "levels", "no kernel", "other architecture", "no file"])
def test_what_is_wrong_is_one_line(what: str, tmp_path: Path) -> None:
    arguments, said = wrong(tmp_path)[what]
    ran = run(*arguments)
    assert ran.returncode == 2 and ran.stdout == ""
    assert said in ran.stderr and ran.stderr.count("\n") == 1


def test_missing_packages_are_named(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    ran = run("build", "--tree", tmp_path / "tree", "--arch", "arm64", "-o", tmp_path / "o", PATH=str(tmp_path))
    assert ran.returncode == 2
    assert "apt-get install" in ran.stderr
    assert {"make", "flex", "bison", "bc", "gcc", "gcc-aarch64-linux-gnu"} <= set(ran.stderr.split())


def test_what_a_machine_lacks_is_named_at_once(tmp_path: Path) -> None:
    ran = run("packages", PATH=str(tmp_path))
    assert ran.returncode == 2 and ran.stdout.startswith("needed: make ")
    assert {"qemu-system-x86", "qemu-system-arm", "gcc-aarch64-linux-gnu", "xz-utils"} <= set(ran.stderr.split())
    data = json.loads(run("packages", "--arch", "x86_64", "--json", PATH=str(tmp_path)).stdout)
    assert "qemu-system-x86" in data["missing"] and "qemu-system-arm" not in data["needed"]


def test_nothing_is_missing_where_every_program_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*PROGRAMS, "aarch64-linux-gnu-gcc", "qemu-system-aarch64"]
    for name in names:
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho /libc.a\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert all(tools.packages(["arm64"]).values())
    (tmp_path / "bc").unlink()
    assert tools.missing_packages("arm64") == ["bc"]


def test_no_qemu_is_named(tmp_path: Path) -> None:
    kernel = fake_qemu.install_kernel(tmp_path)
    ran = run("replay", X86_PMD, "--kernel", kernel, PATH="/nonexistent")
    assert ran.returncode == 2 and "apt-get install qemu-system-x86" in ran.stderr


def test_a_guest_that_fails_is_one_line(tmp_path: Path) -> None:
    kernel = fake_qemu.install_kernel(fake_qemu.install(tmp_path))
    says = "booting|fuzzvm: failed: insmod: Exec format error"
    ran = run("replay", X86_PMD, "--kernel", kernel, PATH=f"{tmp_path}:{os.environ['PATH']}", FAKE_QEMU_SAYS=says)
    assert ran.returncode == 2
    assert ran.stderr == "fuzzvm: the guest could not do what it was told: insmod: Exec format error\n"


def _kernel(name: str) -> str:
    if not KERNELS[name]:
        pytest.skip(f"FUZZVM_KERNEL_{name.upper()} names no kernel")
    return KERNELS[name]


@pytest.mark.parametrize(("name", "file"), [("x86_64", X86_PMD), ("arm64", ARM_PMD)])
def test_a_real_kernel_follows_the_shortest_schedule(name: str, file: Path) -> None:
    ran = run("replay", file, "--kernel", _kernel(name), "--times", 3, "--json")
    data = json.loads(ran.stdout)
    assert (ran.returncode, data["reproduced"]) == (0, 3)
    for result in data["results"]:
        assert "use-after-free in ptdump_pte_entry" in result["report"][0] and result["seconds"] < 60


def test_with_the_fix_it_is_not_reachable() -> None:
    arguments = ("replay", X86_PMD, "--kernel", _kernel("x86_64_fixed"), "--json")
    assert run(*arguments).returncode == 1
    ran = run(*arguments, "--expect", "not reachable")
    result = json.loads(ran.stdout)["results"][0]
    assert (ran.returncode, result["result"]) == (0, "not reachable")
    assert "down_read_trylock(&init_mm.mmap_lock)" in result["message"]


@pytest.mark.parametrize("name", ["x86_64", "arm64"])
def test_a_real_dump_says_what_the_models_says(name: str) -> None:
    ran = run("compare", "--kernel", _kernel(name), "--json")
    data = json.loads(ran.stdout)
    assert (ran.returncode, data["different"], data["sequences"]) == (0, 0, 20)


@pytest.mark.always
def test_what_a_maintainer_needs_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzzvm.cli.commands.kernel import kernel
    from fuzzvm.realkernel.outcome import Outcome, Result

    kernel_folder = fake_qemu.install_kernel(tmp_path)
    said = Outcome(Result.REPRODUCED, message="use-after-free", console=["Linux", "BUG: KASAN"], script=["start"])
    monkeypatch.setattr("fuzzvm.realkernel.replay.replay", lambda *given: said)
    arguments = ["replay", str(X86_PMD), "--kernel", str(kernel_folder), "--save", str(tmp_path / "new" / "finding")]
    ran = CliRunner().invoke(kernel, arguments, standalone_mode=False)
    assert ran.return_value == 0, ran.output
    folder = tmp_path / "new" / "finding"
    held = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert set(held) == {
        *("README", "schedule.toml", "story.txt", "results.ktap", "console.log", "config"),
        *("guest/script", "guest/init.c", "guest/readers.h"),
        *("guest/module/Kbuild", "guest/module/calls.h", "guest/module/fuzzvm_driver.c"),
    }
    assert held["schedule.toml"] == X86_PMD.read_text()
    assert held["console.log"] == "Linux\nBUG: KASAN\n" and held["guest/script"] == "start\n"
    assert "--arch x86_64 --page-size 4K --levels 4 --without-fix promotion-lock -o OUT" in held["README"]
    assert "ptdump_pte_entry" in held["story.txt"] and "ok 1 replay 1" in held["results.ktap"]
    assert [path.name for path in folder.parent.iterdir()] == ["finding"]


@pytest.mark.always
def test_no_folder_of_the_users_is_written_over(tmp_path: Path) -> None:
    kernel = fake_qemu.install_kernel(tmp_path)
    (tmp_path / "mine").mkdir()
    ran = run("replay", X86_PMD, "--kernel", kernel, "--save", tmp_path / "mine", PATH="/nonexistent")
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr == f"fuzzvm: {tmp_path / 'mine'}: is there already: name a new folder\n"


def test_replays_as_ktap_pass_where_they_end_as_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzzvm.cli.commands.kernel import kernel
    from fuzzvm.realkernel.outcome import Outcome, Result

    kernel_folder = fake_qemu.install_kernel(tmp_path)
    ends = iter([Outcome(Result.REPRODUCED, report=["BUG: KASAN"]), Outcome(Result.DIVERGED, 7, "it did # otherwise")])
    monkeypatch.setattr("fuzzvm.realkernel.replay.replay", lambda *given: next(ends))
    ran = CliRunner().invoke(
        kernel,
        ["replay", str(X86_PMD), "--kernel", str(kernel_folder), "--times", "2", "--ktap"],
        standalone_mode=False,
    )
    assert ran.return_value == 1, ran.output
    (test,) = parse(ran.stdout)
    assert (test.name, test.ok) == (X86_PMD.name, False)
    assert [(one.name, one.ok) for one in test.tests] == [("replay 1", True), ("replay 2", False)]
    assert "BUG: KASAN" in test.tests[0].diagnostics
    assert test.tests[1].diagnostics[0].startswith("diverged at step 7: it did # otherwise")
