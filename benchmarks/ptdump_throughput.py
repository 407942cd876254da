"""Measures how fast `fuzzvm ptdump` reads a large dump, and how much memory it takes.

    python benchmarks/ptdump_throughput.py [MEGABYTES] [ROUNDS] [LAYOUT]...

Writes a dump of each layout (arm64, dmesg, arm64-tables, x86_64), of 200 MB unless said otherwise, to a temporary
folder and reads it in rounds: `cat`, a loop over its lines in Python, `fuzzvm ptdump --json`, each a process of its
own and taken in turns, so that their ratios hold on a busy machine, as do rates by the processor's time. With arm64,
also two dumps that differ throughout. MB are 10^6 bytes; memory is the largest resident set of the process, never
below that of this script, which it is forked from. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

UNITS = "KMGTPE"
LINE_LOOP = "import sys\nfor line in open(sys.argv[1], 'rb'): pass"


def size(length: int) -> str:
    """Return a length as arm64 prints it."""
    length >>= 10
    unit = 0
    while length % 1024 == 0 and unit < len(UNITS) - 1:
        length >>= 10
        unit += 1
    return f"{length:9d}{UNITS[unit]}"


def arm64(seed: int, prefix: Callable[[int], str] = lambda number: "") -> Iterator[str]:
    """Yield the lines of a dump of vmalloc space without end: pages, contiguous pages, blocks, holes."""
    draw = random.Random(seed)
    at = 0xFFFF_8000_8000_0000
    yield "---[ vmalloc() area ]---\n"
    tails = [
        (0x1000, 64, "PTE       RW NX SHD AF                UXN    MEM/NORMAL"),
        (0x1000, 1, "PTE"),
        (0x10000, 16, "PTE       RW NX SHD AF        CON     UXN    MEM/NORMAL"),
        (0x1000, 16, "PTE       ro x  SHD AF                UXN    MEM/NORMAL"),
        (0x200000, 4, "PMD       RW NX SHD AF            BLK UXN    MEM/NORMAL"),
    ]
    number = 0
    while True:
        unit, most, tail = draw.choice(tails)
        end = at + unit * draw.randint(1, most)
        yield f"{prefix(number)}0x{at:016x}-0x{end:016x}   {size(end - at)} {tail}\n"
        at = end
        number += 1


def dmesg(seed: int) -> Iterator[str]:
    """Yield the same with what dmesg and CONFIG_PRINTK_CALLER put in front."""
    return arm64(seed, lambda number: f"[{number / 100_000:12.6f}][    T1] ")


def arm64_tables(seed: int) -> Iterator[str]:
    """Yield the lines of a dump with table descriptors: two or three rows in each PTE table."""
    draw = random.Random(seed)
    at = 0xFFFF_8000_8000_0000
    yield "---[ vmalloc() area ]---\n"
    while True:
        cut = at + 0x1000 * draw.randint(1, 511)
        end = at + 0x200000
        yield f"      0x{at:016x}-0x{end - 1:016x}     {size(end - at)} PMD   TBL    NX UXN      RW\n"
        tail = "PTE       RW NX SHD AF NG         UXN    MEM/NORMAL"
        yield f"        0x{at:016x}-0x{cut - 1:016x}   {size(cut - at)} {tail}\n"
        yield f"        0x{cut:016x}-0x{end - 1:016x}   {size(end - cut)} PTE\n"
        at = end


def x86_64(seed: int) -> Iterator[str]:
    """Yield the lines of a dump of x86_64."""
    draw = random.Random(seed)
    at = 0xFFFF_C900_0000_0000
    yield "---[ vmalloc() Area ]---\n"
    tails = [
        (0x1000, 64, "    RW                 GLB NX pte"),
        (0x1000, 1, "                              pte"),
        (0x200000, 4, "    RW         PSE     GLB NX pmd"),
    ]
    while True:
        unit, most, tail = draw.choice(tails)
        end = at + unit * draw.randint(1, most)
        yield f"0x{at:016x}-0x{end:016x}   {size(end - at)} {tail}\n"
        at = end


LAYOUTS = {"arm64": arm64, "dmesg": dmesg, "arm64-tables": arm64_tables, "x86_64": x86_64}


def write(path: Path, lines: Iterator[str], length: int) -> None:
    """Write lines until the file has that many bytes."""
    written = 0
    with path.open("w", encoding="ascii") as file:
        for line in lines:
            written += file.write(line)
            if written >= length:
                return


def run(command: Sequence[str]) -> tuple[float, float, float]:
    """Return the seconds, the processor's seconds and the peak memory in MB of a command. Raises if it fails."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    taken = time.perf_counter() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return taken, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def measure(commands: dict[str, Sequence[str]], megabytes: float, rounds: int) -> dict[str, dict[str, float]]:
    """Return the median rate and the largest memory of each command, and its time as often the loop's."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    used: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, float] = dict.fromkeys(commands, 0.0)
    for _ in range(rounds):
        for name, command in commands.items():
            seconds, processor, peak = run(command)
            taken[name].append(seconds)
            used[name].append(processor)
            memory[name] = max(memory[name], peak)
    return {
        name: {
            "MB_per_s": round(megabytes / statistics.median(seconds), 1),
            "slowest_MB_per_s": round(megabytes / max(seconds), 1),
            "MB_per_processor_s": round(megabytes / statistics.median(used[name]), 1),
            "peak_MB": round(memory[name], 1),
            "times_line_loop_processor": round(
                statistics.median(one / loop for one, loop in zip(used[name], used["line loop"], strict=True)), 2
            ),
        }
        for name, seconds in taken.items()
    }


def main() -> None:
    """Print what was measured."""
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 200.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    fuzzvm = [sys.executable, "-m", "fuzzvm", "ptdump", "--json"]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in LAYOUTS.items():
            if sys.argv[3:] and name not in sys.argv[3:]:
                continue
            path = Path(folder, name)
            write(path, make(1), int(megabytes * 1e6))
            commands = {
                "cat": ["cat", str(path)],
                "line loop": [sys.executable, "-c", LINE_LOOP, str(path)],
                "fuzzvm ptdump": [*fuzzvm, str(path)],
            }
            if name == "arm64":
                other = Path(folder, "other")
                write(other, make(2), int(megabytes * 1e6))
                commands["fuzzvm ptdump, two dumps"] = [*fuzzvm, str(path), str(other)]
            results[name] = measure(commands, path.stat().st_size / 1e6, rounds)
            path.unlink()
    print(json.dumps({"megabytes": megabytes, "rounds": rounds, "results": results}, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
