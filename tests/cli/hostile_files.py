"""Mitigations that misbehave: each way to do so in each place where a mitigation's code runs.

`python tests/cli/hostile_files.py [PART]` runs all of them under every command, or one of so many parts (`2/4`); the
suite takes a few. None may end without a word, nor with a traceback, nor exceed its bound by more than two seconds, nor
be called safe.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1.0
"""The bound that each command is given."""
HOOK_SECONDS = 2.0
"""What a hook may take where no other bound is given."""
HOOK_SECONDS_OF_PYTEST = 10.0
"""What it may take in pytest, which has no option for it."""
MOST = 60.0
"""After which a command that has no more slack is ended."""
OVER = 2.0
"""What a bound may be exceeded by."""

TAKES = {
    "before_promotion": "self, k, level",
    "after_promotion": "self, k, level",
    "before_clear": "self, k, level",
    "after_clear": "self, k, level, token",
    "before_free": "self, k, level, token",
    "free_table": "self, k, table, level",
    "after_free": "self, k, level, token",
    "before_walk": "self, k, mm",
    "walk_locked": "self, k, mm, token",
    "before_attempt": "self, k, mm, token",
    "before_descend": "self, k, level, pxdp, pxd",
    "after_descend": "self, k, level, pxd",
    "after_attempt": "self, k, mm, token",
    "walk_unlocking": "self, k, mm, token",
    "after_walk": "self, k, mm, token",
    "before_change_attr": "self, k",
    "after_change_attr": "self, k, token",
    "before_split_alloc": "self, k",
    "after_split_alloc": "self, k",
    "before_collapse": "self, k",
    "before_collapse_free": "self, k",
    "after_collapse_free": "self, k, token",
    "after_collapse": "self, k, token",
}
ANSWERS = {"before_promotion": True, "before_descend": True, "after_attempt": False}
"""What a hook returns that answers yes or no: as the default does."""
SCENARIOS = {
    **{hook: "x86-cpa-collapse" for hook in TAKES if "attr" in hook or "collapse" in hook},
    **{hook: "x86-cpa-split" for hook in TAKES if "split" in hook},
}
"""Scenarios of hooks that pmd-promotion does not come by."""
LOADED = ("module", "class", "__init__")
NO_GENERATORS = (*LOADED, "attach", "huge_vmap_allowed")

ANYWHERE = {
    "exit": "sys.exit(0)",
    "leave": "os._exit(0)",
    "leave-later": "threading.Thread(target=lambda: (time.sleep(0.05), os._exit(0))).start(); time.sleep(1)",
    "segfault": "ctypes.string_at(0)",
    "abort": "os.abort()",
    "exec": "os.execv(sys.executable, [sys.executable, '-c', 'pass'])",
    "loop": "while True: pass",
    "loop-in-c": "re.match('(a+)+$', 'a' * 64 + 'b')",
    "power": "print(len(str(7 ** 7 ** 9)))",
    "sleep": "time.sleep(1e6)",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "swallow": "swallow()",
    "no-alarm": "signal.signal(signal.SIGALRM, signal.SIG_IGN); swallow()",
    "base-exception": "raise BaseException('not an Exception')",
    "generator-exit": "raise GeneratorExit",
    "keyboard-interrupt": "raise KeyboardInterrupt",
    "stop-iteration": "raise StopIteration",
    "stopped": "raise StoppedError('--max-seconds 7 reached')",
    "cannot-be-printed": "raise Unprintable",
    "escapes": "raise ValueError('two\\nlines and \\x1b[2J')",
    "recursion": "recur()",
    "fork": "os.fork()",
    "change-folder": "os.chdir('/'); raise OSError('elsewhere')",
    "close-all": "os.closerange(0, 64); raise OSError('closed')",
    "no-stderr": "sys.stderr.close(); sys.stdout.close(); raise OSError('closed')",
    "eat-memory": "eat()",
}
"""Statements that may stand in any place."""

IN_HOOKS = {
    "load-text": "yield Load('x')",
    "load-float": "yield Load(1.5)",
    "store-none": "yield Store(None, 1)",
    "store-list": "yield Store(self.word, [1])",
    "wild": "yield Load(999 << 16)",
    "past-the-end": "yield Store(self.word + 1, 1)",
    "order": "yield Load(self.word, 'acquire')",
    "fence": "yield Fence('dsb ish')",
    "number": "yield 5",
    "generator": "yield forever()",
    "update-raises": "yield Rmw(self.word, divide)",
    "update-loops": "yield Rmw(self.word, loop)",
    "update-built-in": "yield Rmw(self.word, len)",
    "update-exits": "yield Rmw(self.word, sys.exit)",
    "hash-ends": "yield Store(self.word, NO_HASH)",
    "update-takes-two": "yield Rmw(self.word, divmod)",
    "update-ends": "yield Rmw(self.word, ENDS)",
    "update-atomic": "yield Rmw(self.word, ATOMIC)",
    "update-loops-as-lock": "yield Rmw(self.word, LOOPS)",
    "lock-of-list": "yield Rmw(self.word, TAKES)\n        yield Rmw([1], TAKES)",
    "waits-for-number": "yield Await(self.word, NEVER)",
    "counter": "n = 0\n        while True:\n            n += 1\n            yield Load(self.word)\n            keep(n)",
    "counter-in-memory": "while True:\n            yield Rmw(self.word, more)",
    "annotations": "while True:\n            yield Annotation()",
    "loop-at-close": "try:\n            yield Load(self.word)\n        finally:\n            swallow()",
    "slow": "time.sleep(0.7)\n        yield Load(self.word)\n        time.sleep(0.7)",
}
"""Bodies of hooks."""

FILE = """\
import ctypes, os, re, signal, sys, threading, time
from types import SimpleNamespace

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import StoppedError
from fuzzvm.machine.ops import Annotation, Await, Fence, Load, Rmw, Store
from fuzzvm.machine.program import Constant


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no")


def swallow():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def recur():
    return recur()


def eat():
    eaten = []
    while True:
        eaten.append(bytearray(1 << 20))


def divide(value):
    return 1 // 0


def loop(value):
    swallow()


class Ends(Constant):
    def __call__(self, value):
        return value

    def __getattr__(self, name):
        if name == "atomic":
            raise StopIteration
        raise AttributeError(name)


class Loops(Ends):
    def __getattr__(self, name):
        swallow()


class Atomic(Constant):
    atomic = "yes"

    def __call__(self, value):
        return value


class Takes(Constant):
    waits = True

    def __call__(self, value):
        return value

    def action(self, response):
        return SimpleNamespace(queued=False, failed=False, downgrade=False, release=False)


class Never(Constant):
    def __call__(self, value):
        return False

    def blocked_by(self, value):
        return 5


class NoHash(Constant):
    def __hash__(self):
        raise StopIteration


ENDS, LOOPS, ATOMIC, TAKES, NEVER, NO_HASH = Ends(), Loops(), Atomic(), Takes(), Never(), NoHash()


def more(value):
    return value + 1


def keep(n):
    return n


def forever():
    while True:
        yield Load(0)


{module}


class Mine(Mitigation):
    name = "mine"
    {cls}

    def __init__(self):
        {init}

    def attach(self, boot):
        self.word = boot.word("mine")
        {attach}

    def huge_vmap_allowed(self):
        {huge}
        return True
{hook}"""


@dataclass(frozen=True)
class Hostile:
    """A file that misbehaves: where, and in which way."""

    place: str
    way: str

    def __str__(self) -> str:
        return f"{self.way} in {self.place}"

    @property
    def scenario(self) -> str:
        """A scenario that comes by there."""
        return SCENARIOS.get(self.place, "pmd-promotion")

    def text(self) -> str:
        """Return the text of the file, whose class is Mine."""
        parts = dict.fromkeys(("module", "cls", "init", "attach", "huge"), "pass")
        statement = ANYWHERE.get(self.way, "")
        parts["hook"] = ""
        match self.place:
            case "module":
                parts["module"] = statement
            case "class":
                parts["cls"] = statement
            case "__init__":
                parts["init"] = statement
            case "attach":
                parts["attach"] = statement
            case "huge_vmap_allowed":
                parts["huge"] = statement
            case hook:
                body = IN_HOOKS.get(self.way) or f"yield from ()\n        {statement}"
                parts["hook"] = f"\n    def {hook}({TAKES[hook]}):\n        {body}\n"
                if hook in ANSWERS:
                    parts["hook"] += f"        return {ANSWERS[hook]}\n"
        return FILE.format(**parts)


def everything() -> Iterator[Hostile]:
    """Yield each way in each place."""
    for place in (*NO_GENERATORS, *TAKES):
        for way in ANYWHERE:
            yield Hostile(place, way)
    for place in TAKES:
        for way in IN_HOOKS:
            yield Hostile(place, way)


COMMANDS = ("verify", "fuzz", "necessity", "campaign", "pytest")


@dataclass(frozen=True)
class Outcome:
    """What a command has come to: `wrong` says which promise was not kept, '' where none was broken."""

    wrong: str
    status: int
    seconds: float
    said: str


def run(hostile: Hostile, command: str, folder: Path, *, slack: float = 0.0) -> Outcome:
    """Run a command on a hostile file in an empty folder. `slack` is added to what it may take."""
    (folder / "mine.py").write_text(hostile.text())
    # pytest loads a file before a test says how long it may take
    bound = HOOK_SECONDS_OF_PYTEST if command == "pytest" and hostile.place in LOADED else SECONDS
    scheme = ("-m", "mine.py:Mine", "-s", hostile.scenario)
    arguments = [sys.executable, "-m", "fuzzvm"]
    match command:
        case "verify":
            arguments += ["verify", *scheme, "--memory", "sc", "--max-seconds", str(SECONDS), "--max-memory", "300"]
        case "fuzz":
            arguments += ["fuzz", *scheme, "--memory", "sc", "--seconds", str(SECONDS), "--corpus", "findings"]
        case "necessity":
            # its points are of arm64
            arguments += ["necessity", "-m", "mine.py:Mine", "-s", "pmd-promotion", "--memory", "sc"]
            arguments += ["-p", "free-lock", "--ipi", "--seconds", str(SECONDS)]
        case "campaign":
            arguments += ["fuzz", *scheme, "--memory", "sc", "--seconds", str(SECONDS), "--campaign", "campaign"]
        case "pytest":
            (folder / "test_mine.py").write_text(
                "import pytest\n\n\n"
                f'@pytest.mark.fuzzvm("mine.py:Mine", scenarios=["{hostile.scenario}"], memories=["sc"])\n'
                f"def test_mine(fuzzvm_run):\n    fuzzvm_run.must_be_proven_safe(max_seconds={SECONDS})\n"
            )
            arguments = [sys.executable, "-m", "pytest", "-p", "fuzzvm.pytest_plugin", "-p", "no:cacheprovider", "-q"]
    # where only a hook's own bound binds
    arguments += [] if command == "pytest" else ["--hook-seconds", str(HOOK_SECONDS)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    began = time.monotonic()
    with subprocess.Popen(
        arguments,
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, errors = process.communicate(timeout=MOST + slack)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, errors = process.communicate()
            return Outcome("it did not end", process.returncode, time.monotonic() - began, out + errors)
    seconds = time.monotonic() - began
    wrong = wrong_with(hostile, command, process.returncode, out, errors)
    if not wrong and seconds > bound + OVER + slack:
        wrong = f"it took {seconds:.1f} seconds"
    return Outcome(wrong, process.returncode, seconds, out + errors)


def wrong_with(hostile: Hostile, command: str, status: int, out: str, errors: str) -> str:
    """Return which promise is broken by what a command printed and ended with."""
    said = out + errors
    if "is no hook" in said or "SyntaxError" in said:
        return "the file is not what it should be"
    if "Traceback" in said:
        return "there is a traceback"
    if "\x1b" in said:
        return "an escape sequence reaches the terminal"
    if command == "pytest":
        if status not in (1, 2) or not ("FAILED" in out or "ERROR" in out or "rror" in out):
            return f"exit status {status}, and no failure"
        return "" if re.search(r"\bmine\.py", out.replace("test_mine.py", "")) else "the file is not named"
    if status not in (1, 2) and not (status == 0 and hostile.way == "slow" and "none found" in out):
        # that one does no harm but to take its time: a search that finds nothing says how many runs it had
        return f"exit status {status}"
    if re.search(r"\bsafe\b", out) and "safe within the bound" not in out:
        return "it is called safe"
    if status == 2 and (errors.count("\n") != 1 or "mine.py" not in errors):
        return "not one line that names the file"
    return ""


def main() -> None:
    part, _, parts = (sys.argv[1] if len(sys.argv) > 1 else "1/1").partition("/")
    cases = [(hostile, command) for hostile in everything() for command in COMMANDS]
    slack = {command: startup(command) for command in COMMANDS}
    wrong = 0
    for number, (hostile, command) in enumerate(cases):
        if number % int(parts) != int(part) - 1:
            continue
        with tempfile.TemporaryDirectory(prefix="fuzzvm-hostile-") as folder:
            outcome = run(hostile, command, Path(folder), slack=slack[command])
        wrong += bool(outcome.wrong)
        line = {"hostile": str(hostile), "command": command, **vars(outcome)}
        print(json.dumps(line if outcome.wrong else {**line, "said": outcome.said[-160:]}), flush=True)  # noqa: T201
    sys.exit(bool(wrong))


def startup(command: str) -> float:
    """Return the seconds that it takes this machine to start a command and to end it, where a file is of no use."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Hostile("module", "base-exception"), command, Path(folder), slack=600).seconds


if __name__ == "__main__":
    main()
