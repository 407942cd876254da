"""QEMU's life is never longer than that of who started it, and it leaves nothing; shown on a program that sleeps."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzzvm.realkernel.arch import X86_64
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.qemu import Qemu, _without_stamp
from tests.campaigns.killing import alive
from tests.clock import PATIENCE, wait_until
from tests.realkernel import fake_qemu
from tests.support import heed_sigint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = fake_qemu.install(tmp_path)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def start(says: str = "") -> Qemu:
    os.environ["FAKE_QEMU_SAYS"] = says
    try:
        return Qemu(X86_64, Path("image"), b"", 2)
    finally:
        del os.environ["FAKE_QEMU_SAYS"]


def left(path: Path) -> list[Path]:
    return list(path.glob("fuzzvm-*"))


def test_leaving_the_context_ends_it(path: Path) -> None:
    with start() as qemu:
        pid = qemu.pid
    wait_until(lambda: not alive(pid))
    assert not left(path)
    qemu.close()


def test_while_it_runs_nothing_of_it_has_a_name(path: Path) -> None:
    with start():
        assert not left(path)


def test_the_stub_listens_where_only_this_process_can_connect(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that is started accepts on the socket that it inherits, and reads the initramfs that it inherits."""
    monkeypatch.setenv("FAKE_QEMU_ACCEPTS", "1")
    with Qemu(X86_64, Path("image"), b"of the guest", 2) as qemu:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{qemu._stub}")
            assert client.recv(5) == b"hello"
        assert qemu.wait_for(lambda line: line.startswith("initramfs"), PATIENCE) == "initramfs: of the guest"


def test_an_exception_ends_it(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), start() as qemu:
        raise ZeroDivisionError
    wait_until(lambda: not alive(qemu.pid))
    assert not left(path)


def test_the_console_without_time_stamps(path: Path) -> None:
    with start("[    0.000000] Linux version|fuzzvm: gate ffff|[last]") as qemu:
        assert qemu.wait_for(lambda line: line == "[last]", PATIENCE) == "[last]"
        assert qemu.lines()[:2] == ["Linux version", "fuzzvm: gate ffff"]


@pytest.mark.parametrize("line", ["[    1.5] a", "[12.25] a"])
def test_stamps(line: str) -> None:
    assert _without_stamp(line) == "a"


def test_nothing_said_in_time_is_an_error(path: Path) -> None:
    with start("one|two") as qemu:
        qemu.wait_for(lambda line: line == "two", PATIENCE)
        with pytest.raises(RealKernelError, match=r"within 0\.3 s; its last line: two"):
            qemu.wait_for(lambda line: line == "three", 0.3)


def test_a_panic_is_an_error(path: Path) -> None:
    with start("Kernel panic - not syncing") as qemu, pytest.raises(RealKernelError, match="Kernel panic"):
        qemu.wait_for(lambda line: line == "three", PATIENCE)


def test_what_qemu_says_when_it_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU_ENDS", "1")
    with start() as qemu, pytest.raises(RealKernelError, match="QEMU has ended: qemu: no such machine"):
        qemu.wait_for(lambda line: line == "three", PATIENCE)


def test_no_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RealKernelError, match="apt-get install qemu-system-x86"):
        start()


def heed_signals() -> None:
    """Let a child heed SIGINT and SIGHUP also where the tests run in the background, or by nohup."""
    heed_sigint()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_command_being_killed_ends_it(path: Path, sent: signal.Signals) -> None:
    kernel = fake_qemu.install_kernel(path)
    pid_file = path / "pid"
    command = [sys.executable, "-m", "fuzzvm", "kernel", "stress", "--kernel", str(kernel), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FAKE_QEMU_PID": str(pid_file), "FAKE_QEMU_SAYS": "booting"}
    ran = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals
    )
    wait_until(lambda: (pid_file.exists() and pid_file.read_text()) or ran.poll() is not None)
    pid = int(pid_file.read_text())
    ran.send_signal(sent)
    try:
        out, err = ran.communicate(timeout=PATIENCE)
    finally:
        ran.kill()
    wait_until(lambda: not alive(pid))
    assert out == ""
    assert not left(path)
    if sent != signal.SIGKILL:
        assert ran.returncode == 130 and err.strip() == "fuzzvm: interrupted"


def test_ctrl_c_before_the_console_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU is there, and nobody has it: it is closed at exit, with no word."""
    at_exit: list[Callable[[], None]] = []

    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(atexit, "register", at_exit.append)
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start()
    (close,) = at_exit
    close()
    assert not alive(close.__self__.pid)  # type: ignore[attr-defined]
