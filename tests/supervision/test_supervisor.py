"""A command in a process of its own: its status, its death, its signals, and what it leaves behind."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.campaigns.killing import ROOT, alive, children, wait_until_gone
from tests.clock import PATIENCE, wait_until
from tests.support import heed_sigint

PROGRAM = """
import ctypes, os, signal, subprocess, sys, threading, time
from fuzzvm.supervision import supervisor

def command():
    {command}

sys.exit(supervisor.run(command, "prog", ()))
"""


def started(folder: Path, command: str, **options: object) -> subprocess.Popen[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(command=command.replace("\n", "\n    ")))
    return subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=heed_sigint,
        **options,  # type: ignore[call-overload]
    )


def ended(folder: Path, command: str) -> tuple[int, str, str]:
    with started(folder, command) as process:
        out, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, out, errors


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("print('out'); return 3", 3, ""),
        ("os._exit(0)", 2, "exit status 0 in the middle of its work"),
        ("sys.stdout.close(); os.close(1); os._exit(1)", 2, "exit status 1 in the middle of its work"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 2, "killed by SIGKILL"),
        ("os.execv(sys.executable, [sys.executable, '-c', ''])", 2, "exit status 0 in the middle of its work"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        # threads that keep the process from ending, and what is called as it ends, come too late
        ("threading.Thread(target=time.sleep, args=(1000,)).start(); return 1", 1, ""),
        ("import atexit; atexit.register(os._exit, 0); return 1", 1, ""),
        ("import atexit; atexit.register(time.sleep, 1000); return 4", 4, ""),
    ],
)
def test_the_end_of_a_command_is_seen(tmp_path: Path, command: str, status: int, said: str) -> None:
    expected = f"prog: {said}\n" if said else ""
    assert ended(tmp_path, command) == (status, "out\n" if "'out'" in command else "", expected)


def test_the_place_of_a_crash_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import ctypes\n\ndef hook():\n    ctypes.string_at(0)\n")
    command = f"""\
import sys; sys.path.insert(0, {str(tmp_path)!r})
from fuzzvm.supervision import inside
import mine
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.stuck import find_cycle

class Edges(dict):
    def get(self, *_): mine.hook()

find_cycle(Edges({{1: (2,)}}))"""
    _, _, errors = ended(tmp_path, command)
    # what calls it, and lies in the program, is the user's as well; fuzzvm's own code lies between
    assert errors == f"prog: {tmp_path}/mine.py:4: hook has ended the process: SIGSEGV\n"


def test_nothing_outlives_a_command(tmp_path: Path) -> None:
    sleeps = f"{sys.executable} -c 'import time; time.sleep(1000)'"
    status, out, _ = ended(tmp_path, f'print(subprocess.Popen("exec {sleeps}", shell=True).pid); return 0')
    assert status == 0
    wait_until(lambda: not alive(int(out)))


STAYS = 'signal.signal(signal.SIGINT, signal.SIG_IGN); print("begun", flush=True); time.sleep(1000)'


def test_a_command_that_does_not_heed_ctrl_c_is_ended(tmp_path: Path) -> None:
    with started(tmp_path, STAYS) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        inner = children(process.pid)
        assert inner
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == "prog: interrupted\n"
    wait_until_gone(inner)


def test_a_command_hears_ctrl_c_once_and_may_take_its_time(tmp_path: Path) -> None:
    heeds = """\
heard = []
signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
print("begun", flush=True)
while not heard: time.sleep(0.01)
time.sleep(0.3)
print(len(heard))
return 7"""
    with started(tmp_path, heeds, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        # as a terminal does, and many that end a job
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 7
        assert process.stdout.read() == "1\n"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_both(tmp_path: Path, sent: signal.Signals) -> None:
    with started(tmp_path, STAYS) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        inner = children(process.pid)
        process.send_signal(sent)
        assert process.wait(PATIENCE) == -sent
        assert process.stderr.read() == ""
    wait_until_gone(inner)


def test_a_supervisor_that_is_killed_takes_all_along(tmp_path: Path) -> None:
    starts = 'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]); ' + STAYS
    with started(tmp_path, starts) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        inner = children(process.pid)
        assert len(inner) == 2
        process.kill()
    wait_until_gone(inner)


def test_ctrl_z_stops_both_and_they_go_on_together(tmp_path: Path) -> None:
    with started(tmp_path, STAYS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        both = process.pid, *children(process.pid)
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: all(state(pid) == "T" for pid in both))
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: all(state(pid) != "T" for pid in both))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ctrl_c_is_heeded_before_anything_is_imported() -> None:
    """From when it is held back, which is the first line, and so before the command has a handler for it."""
    command = [sys.executable, "-m", "fuzzvm", "verify", "--memory", "sc"]
    for delay in (0.0, 0.05, 0.2):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_sigint
        ) as process:
            # while it waits for signals the kernel shows none as blocked; then it has a child
            wait_until(lambda: blocks(process.pid, signal.SIGINT) or children(process.pid))
            time.sleep(delay)
            inner = children(process.pid)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors.strip()) == (130, "fuzzvm: interrupted") or "interrupted: " in errors, out
        wait_until_gone(inner)


def blocks(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")]
    return bool(mask >> (number - 1) & 1)


def test_a_command_that_reads_from_a_terminal_is_given_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(command='print("read", input()); return 5'))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, str(program)])
    os.write(terminal, b"a line\n")
    said = b""
    until = time.monotonic() + PATIENCE
    while b"read a line" not in said:
        assert time.monotonic() < until, said
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)
