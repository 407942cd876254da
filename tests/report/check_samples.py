"""Data of checks as `fuzzvm check --json` prints it; tests/cli/test_check_forms.py compares the fields with it."""

from __future__ import annotations

import copy
from typing import Any

MANIFEST = {
    "format": 1,
    "digest": "8a906d8047ecb552cb0606e783a7e81d36f415f0",
    "key": "ec1a61a18ada5e5a",
    "kernel": "7.3.4",
    "arch": "arm64",
    "page_size": "4K",
    "levels": 3,
    "kind": "tree",
    "source": "/linux",
    "sources": "3fc639de",
    "patches": [],
    "config": "0819cafe6d7b7a0376e4c1a1524a68747698d2c7",
    "cc": "gcc",
    "compiler": "aarch64-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0",
    "atomics": "lse",
    "features": ["HAS_LSE_ATOMICS"],
    "objects": ["mm/vmalloc.o"],
    "left_out": [],
    "seconds": 116.9,
}


def step(number: int, cpu: int, function: str, file: str, line: int, text: str) -> dict[str, Any]:
    return {
        "number": number,
        "cpu": cpu,
        "text": text,
        "function": function,
        "file": file,
        "line": line,
        "inlined": False,
    }


STORY: dict[str, Any] = {
    "error": "use-after-free-read",
    "function": "ptdump_pte_entry",
    "message": "page 10 was freed",
    "cpu": 1,
    "stack": [
        {"function": "ptdump_pte_entry", "file": "mm/ptdump.c", "line": 31, "inlined": False},
        {"function": "cmpxchg", "file": "", "line": 0, "inlined": False},
    ],
    "cpus": 2,
    "setting": ["after the series; memory arm64", "  CPU 0: vmap(page=0)"],
    "report": ["=" * 66, "BUG: use-after-free-read in ptdump_pte_entry", "Page 10 was freed", "=" * 66],
    "steps": [
        step(1, 1, "down_read", "", 0, "init_mm.mmap_lock: 0x0 -> 0x100 (acquire)"),
        step(2, 0, "pmd_free_pte_page", "arch/arm64/mm/mmu.c", 1804, "write pmd[0] of table 9 = none"),
        step(3, 2, "", "", 0, "the write becomes visible"),
        step(4, 1, "ptdump_pte_entry", "mm/ptdump.c", 31, "read pte[0] of table 10 <script>alert(1)</script>"),
    ],
    "text": "BUG: use-after-free-read in ptdump_pte_entry\n\nsteps # and more\n",
}


def run(verdict: str, story: dict[str, Any] | None = None, *, complete: bool = True) -> dict[str, Any]:
    bug = verdict == "bug"
    return {
        "verdict": verdict,
        "bug": "use-after-free-read" if bug else None,
        "function": "ptdump_pte_entry" if bug else None,
        "complete": complete,
        "bound": None if complete else "--seconds 10 reached",
        "states": 12345,
        "transitions": 23456,
        "seconds": 12.34,
        "schedule": "1*5 0*10 1" if bug else None,
        "context_switches": 2 if bug else None,
        "steps": 4 if bug else None,
        "missing": [],
        "story": story,
    }


def pair(memory: str, answer: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "scenario": "pmd-promotion",
        "memory": memory,
        "answer": answer,
        "boot": ["vmap(page=0, nr_pages=2, max_page_shift='pte')"],
        "cpus": [["vmap(page=0, nr_pages=2, max_page_shift='pmd')"], ["cat_kernel_page_tables()"]],
        "before": before,
        "after": after,
    }


BROKEN: dict[str, Any] = {
    "check": 1,
    "answer": "broken",
    "status": 1,
    "why": None,
    "command": "fuzzvm check --tree linux --patch series.mbox",
    "tree": "linux",
    "commit": None,
    "series": ["series.mbox (1 of 2): mm: drop the lock #1", "series.mbox (2 of 2): mm: <b>more</b>"],
    "changed": ["mm/vmalloc.c", "arch/x86/mm/pat/set_memory.c"],
    "comments_only": ["mm/mmu.c"],
    "modelled_functions": [
        {"function": "vmap_try_huge_pmd", "file": "mm/vmalloc.c", "model": "vmap:vmap_try_huge_pmd"}
    ],
    "functions": [
        {
            "name": "vmap_try_huge_pmd",
            "file": "mm/vmalloc.c",
            "state": "ran",
            "lines": 2,
            "lines_ran": 1,
            "pairs": ["pmd-promotion, sc", "pmd-promotion, arm64"],
            "why": "",
        },
        {
            "name": "vmap_try_huge_pud",
            "file": "mm/vmalloc.c",
            "state": "did not run",
            "lines": 3,
            "lines_ran": 0,
            "pairs": [],
            "why": "it was entered, and none of its changed lines ran",
        },
    ],
    "flushes": [],
    "data": ["vmap_allow_huge"],
    "not_looked_at": ["arch/x86/mm/pat/set_memory.c"],
    "left_out": {"cpa-collapse": "it is of x86_64, and the image of arm64"},
    "images": [
        {
            "base": MANIFEST,
            "head": MANIFEST
            | {
                "digest": "778513329483922cbdcc64d9053f214cbb787c25",
                "patches": [{"name": "series.mbox (1 of 2)", "sha256": "778513329483922c"}],
            },
        }
    ],
    "pairs": [
        pair("sc", "no change", run("safe"), run("safe")),
        pair("arm64", "broken", run("safe"), run("bug", STORY)),
        pair("tso", "undecided", run("undecided", complete=False), None),
    ],
}
FIXED = copy.deepcopy(BROKEN) | {
    "answer": "fixed",
    "status": 0,
    "pairs": [pair("arm64", "fixed", run("bug", STORY), run("safe"))],
}
UNTESTED = copy.deepcopy(BROKEN) | {
    "answer": "cannot be tested",
    "status": 125,
    "why": "series.mbox does not apply: hunk 1 of mm/vmalloc.c",
    "functions": [],
    "data": [],
    "not_looked_at": [],
    "left_out": {},
    "images": [],
    "pairs": [],
}
SAMPLES = {"broken": BROKEN, "fixed": FIXED, "untested": UNTESTED}
