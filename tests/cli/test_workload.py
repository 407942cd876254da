"""`fuzzvm workload test_vmalloc` in a subprocess: what the kernel commits say of it, and what scripts rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clock import FOREVER, PATIENCE, wait_until
from tests.support import heed_sigint, tells_that_it_runs

COMMAND = [sys.executable, "-m", "fuzzvm", "workload", "test_vmalloc"]

TRYLOCK = """
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_trylock, mmap_read_unlock
class Trylock(Mitigation):
    name = "trylock"
    def before_promotion(self, k, level):
        return (yield from mmap_read_trylock(k, k.init_mm))
    def after_promotion(self, k, level):
        yield from mmap_read_unlock(k, k.init_mm)
"""


def workload(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, timeout=PATIENCE)


def data_of(*arguments: str) -> dict[str, Any]:
    done = workload(*arguments, "--json")
    assert done.stderr == ""
    data = json.loads(done.stdout)
    assert isinstance(data, dict)
    return data


@pytest.mark.product
@pytest.mark.parametrize(
    ("page_size", "use_huge", "expected"),
    [("4K", 1, 16), ("4K", 0, 256), ("16K", 1, 2), ("16K", 0, 256), ("64K", 1, 8), ("64K", 0, 256)],
)
def test_barrier_pairs_and_tlb_entries_of_256_pages(page_size: str, use_huge: int, expected: int) -> None:
    """256 over CONT_PTES: 16 with 4K pages, 128 with 16K, 32 with 64K. Whoever dumps, and whatever the mitigation."""
    arguments = ["--nr-pages", "256", "--use-huge", str(use_huge), "--page-size", page_size, "--test-loop-count", "2"]
    data = data_of(*arguments, "-m", "static-key", "-m", "config-off")
    assert data["tests"] == ["fix_size_alloc_test"]
    assert len(data["runs"]) == 4
    for run in data["runs"]:
        assert run["per_area"]["pages"] == 256
        assert run["per_area"]["barrier_pairs"] == expected
        assert run["per_area"]["tlb_entries"] == expected
        assert run["counters"]["workload"]["barrier_pairs"]["leaf"] == expected * run["areas"]
        assert run["share"]["contiguous"] == use_huge


def test_lazy_mmu_mode_has_one_pair_a_range_for_pages_and_one_a_block_for_blocks() -> None:
    for use_huge, pairs, entries in (("0", 1, 256), ("1", 16, 16)):
        arguments = ["--nr-pages", "256", "--use-huge", use_huge, "--lazy-mmu", "--readers", "0", "-m", "none"]
        (run,) = data_of(*arguments)["runs"]
        assert (run["per_area"]["barrier_pairs"], run["per_area"]["tlb_entries"]) == (pairs, entries)


@pytest.mark.slow
def test_the_lock_on_the_free_path() -> None:
    """static-key: not once where nobody walks. mmap-lock-always: with every promotion that frees a table."""
    data = data_of("-m", "static-key", "-m", "mmap-lock-always")
    runs = {(run["mitigation"], run["readers"]): run for run in data["runs"]}
    assert set(runs) == {(name, readers) for name in ("static-key", "mmap-lock-always") for readers in (0, 2)}
    for run in runs.values():
        assert run["promotions"] == run["areas"] == 10
        assert run["counters"]["workload"]["tables_freed"] == {"PTE": 10}
        assert run["blocks"] == {"possible": 10, "made": 10, "lost": 0}
    assert runs["static-key", 0]["free_path"] == {"locks": 0, "contended": 0, "ns": 0}
    assert runs["static-key", 2]["free_path"]["contended"] > 0
    for readers in (0, 2):
        run = runs["mmap-lock-always", readers]
        assert run["free_path"]["locks"] >= run["promotions"]
    waited = runs["mmap-lock-always", 2]["cost_ns"]["waited"]
    assert 0 < waited < runs["mmap-lock-always", 2]["cost_ns"]["total"]


@pytest.mark.slow
def test_a_scheme_that_falls_back_shows_the_blocks_that_it_lost(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TRYLOCK)
    data = data_of("-m", f"{path}:Trylock", "--test-loop-count", "20")
    alone, beside = data["runs"]
    assert alone["blocks"]["lost"] == 0
    assert beside["blocks"]["lost"] > 0
    assert beside["share"]["contiguous"] == beside["blocks"]["lost"] / 20
    table = workload("-m", f"{path}:Trylock", "--test-loop-count", "20").stdout
    assert f"{beside['blocks']['lost']} of 20" in table


def test_without_a_mitigation_it_is_a_table_over_all() -> None:
    names = [name["name"] for name in json.loads(_fuzzvm("mitigations", "--json").stdout)["mitigations"]]
    done = workload("--test-loop-count", "3")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("test_vmalloc: fix_size_alloc_test on arm64, 4K pages, 4 levels of 512 entries")
    assert lines[1].split("  ")[0] == "mitigation"
    rows = [line.split()[:2] for line in lines[2 : 2 + 2 * len(names)]]
    assert rows == [[name, readers] for name in names for readers in ("0", "2")]


def _fuzzvm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", *arguments], capture_output=True, text=True, timeout=PATIENCE
    )


def test_the_same_seed_prints_the_same() -> None:
    arguments = [
        "-m",
        "static-key",
        "--run-test-mask",
        "9",
        "--nr-pages",
        "64",
        "--test-loop-count",
        "3",
        "--readers",
        "1",
    ]
    texts = set()
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": hash_seed}
        )
        texts.add(done.stdout)
    assert len(texts) == 1
    assert workload(*arguments, "--seed", "5").stdout not in texts


def test_a_bug_is_told_and_its_status_is_what_the_mitigation_claims(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from fuzzvm.kernel.hooks import Mitigation\n"
        "class Mine(Mitigation):\n    name = 'mine'\n    two_walkers = 'safe'\n"
    )
    arguments = ["--readers", "2", "--test-loop-count", "30"]
    admits = workload("-m", "none", *arguments)
    assert admits.returncode == 0
    assert "use-after-free" in admits.stdout
    claims = workload("-m", "mine.py:Mine", *arguments, cwd=tmp_path)
    assert claims.returncode == 1
    assert "mine.py:Mine, 2 readers: use-after-free-read in ptdump_pte_entry at step" in claims.stdout


def test_tests_that_are_not_modelled_are_listed_or_refused() -> None:
    done = workload("-m", "none", "--readers", "0", "--run-test-mask", "1025", "--test-loop-count", "1")
    assert done.returncode == 0
    assert "not modelled: vm_map_ram_test" in done.stdout
    data = data_of("-m", "none", "--readers", "0", "--run-test-mask", "129", "--test-loop-count", "1")
    assert data["not_modelled"] == ["pcpu_alloc_test"]
    refused = workload("--run-test-mask", "128")
    assert refused.returncode == 2
    assert "names pcpu_alloc_test, of which nothing is modelled" in refused.stderr


@pytest.mark.product
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--page-size", "8K"), "page_size must be one of 4K, 16K, 64K on arm64, not '8K'"),
        (("--nr-pages", "0"), "nr_pages must be from 1"),
        (("--nr-pages", "many"), "'many' is not a valid integer"),
        (("--readers", "9"), "0 to 7 readers are possible"),
        (("--levels", "4", "--page-size", "64K"), "levels must be one of 2, 3 on arm64 with 64K pages"),
        (("--fanout", "3"), "fanout must be a power of two"),
        (("--arch", "x86_64", "--cont-ptes", "16"), "x86_64 has no contiguous blocks"),
        (("--weight", "tlbi"), "is not NAME=NANOSECONDS"),
        (("--weight", "x=1"), "no weight 'x'"),
        (("--weight", "ipi=-1"), "weight ipi must be 0 or more"),
        (("--run-test-mask", "1048576"), "names no test"),
        (("-m", "nope"), "no mitigation 'nope'"),
        (("--memory", "nope"), "'nope' is not one of"),
        (("--use-huge", "2"), "'2' is not one of '0', '1'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: tuple[str, ...], message: str) -> None:
    done = workload(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert message in done.stderr


def test_other_machines() -> None:
    data = data_of("--arch", "x86_64", "-m", "static-key", "--test-loop-count", "2")
    assert [run["per_area"]["tlb_entries"] for run in data["runs"]] == [1, 1]
    assert data["cont_ptes"] == 1
    tlbi = data["runs"][0]["counters"]["workload"]["tlbi"]
    assert tlbi == [{"operation": "invlpg", "for": "PMD", "count": 2}]
    data = data_of("--levels", "5", "-m", "none", "--readers", "0", "--test-loop-count", "2", "--memory", "tso")
    assert data["levels"] == 5


def test_ctrl_c_prints_what_there_is_and_ends_with_130(tmp_path: Path) -> None:
    scheme, has_begun = tells_that_it_runs(tmp_path)
    process = subprocess.Popen(
        [*COMMAND, "--json", "-m", scheme, "--readers", "0", "--test-loop-count", str(FOREVER)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_sigint,
    )
    wait_until(lambda: has_begun() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert json.loads(out)["interrupted"] is True
    assert err == "fuzzvm: interrupted\n"
