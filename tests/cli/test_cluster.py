"""`--executor dask://HOST:PORT` of `fuzzvm verify` and `fuzzvm fuzz`, with a cluster of several processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fuzzvm.cli.main import cli
from tests.campaigns import patient
from tests.campaigns.cluster.running import Running
from tests.campaigns.killing import ROOT, ask, promises
from tests.clock import FOREVER, PATIENCE, wait_until
from tests.support import heed_sigint

SMALL = ("-s", "pmd-promotion", "--memory", "sc")
FIVE = ("pmd-promotion", "pud-promotion", "two-walkers", "two-tables", "x86-two-walkers")
CAMPAIGN = ("-m", "none", *SMALL, "--schedule-by", "even", "--seed", "3")
SCHEME = """
import os
from fuzzvm.kernel.hooks import Mitigation
class Mine(Mitigation):
    name = "mine"
    def before_free(self, k, level, token):
        yield from ()
class Slow(Mitigation):
    name = "slow"
    def __init__(self):
        import time
        time.sleep(1_000_000)
"""


def start(
    *arguments: str, cwd: Path, program: Sequence[str] = ("-m", "fuzzvm"), **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        preexec_fn=heed_sigint,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, error = process.communicate(timeout=PATIENCE)
    return process.returncode, said, error


def answer(process: subprocess.Popen[str], status: int = 0) -> dict[str, Any]:
    got, said, error = finish(process)
    assert (got, error) == (status, "")
    data: dict[str, Any] = json.loads(said)
    return data


def error_of(process: subprocess.Popen[str]) -> str:
    status, said, error = finish(process)
    assert (status, said) == (2, ""), (said, error)
    assert error.count("\n") == 1, error
    return error


def verdicts(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all that verify says but the time."""
    return [{key: value for key, value in run.items() if key != "seconds"} for run in data["runs"]]


def outcome(folder: Path, data: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a campaign comes to that does not depend on who did it: runs, steps, coverage, ways to fail."""
    connection = sqlite3.connect(folder / "journal.sqlite")
    pairs = connection.execute("SELECT * FROM pair").fetchall()
    ways = connection.execute("SELECT error, failed, freed FROM failing ORDER BY 1, 2, 3").fetchall()
    connection.close()
    assert pairs and ways
    return data["runs"], data["steps"], pairs, ways


@contextlib.contextmanager
def under_way(cluster: Running, process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A command, from the moment on that each worker runs something for it."""
    try:
        wait_until(lambda: len(cluster.children()) == 2 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.always
def test_verify_says_the_same_as_one_process_and_a_killed_worker_changes_nothing(
    cluster: Running, tmp_path: Path
) -> None:
    arguments = ["verify", "-m", "none", "-m", "static-key", "--memory", "sc", "--json"]
    arguments += [argument for scenario in FIVE for argument in ("-s", scenario)]
    alone = verdicts(answer(start(*arguments, "--jobs", "1", cwd=tmp_path)))
    assert {run["verdict"] for run in alone} == {"safe", "bug"} and len(alone) == 10
    assert verdicts(answer(start(*arguments, *cluster.executor, cwd=tmp_path))) == alone
    cluster.restore()
    with under_way(cluster, start(*arguments, *cluster.executor, cwd=tmp_path)) as process:
        cluster.workers[0].kill()
        assert verdicts(answer(process)) == alone


@pytest.mark.slow
def test_a_campaign_comes_to_the_same_as_here_and_a_killed_worker_loses_nothing(
    cluster: Running, tmp_path: Path
) -> None:
    arguments = ("fuzz", *CAMPAIGN, "--runs", "2500", "--json")
    alone = answer(start(*arguments, "--jobs", "1", "--campaign", "a", cwd=tmp_path), 1)
    there = answer(start(*arguments, *cluster.executor, "--campaign", "b", cwd=tmp_path), 1)
    assert outcome(tmp_path / "b", there) == outcome(tmp_path / "a", alone)
    assert len(there["saved"]) == len(alone["saved"]) == 1
    cluster.restore()
    with under_way(cluster, start(*arguments, *cluster.executor, "--campaign", "c", cwd=tmp_path)) as process:
        cluster.workers[0].kill()
        killed = answer(process, 1)
    assert outcome(tmp_path / "c", killed) == outcome(tmp_path / "a", alone)
    assert promises(tmp_path / "c", 2500, set()) == []


def test_ctrl_c_ends_a_campaign_that_can_be_resumed_here(cluster: Running, tmp_path: Path) -> None:
    arguments = ("fuzz", *CAMPAIGN, "--runs", "400000", "--campaign", "c", *cluster.executor)
    with under_way(cluster, start(*arguments, cwd=tmp_path)) as process:
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert error.splitlines() == [
            "interrupted: fuzzvm fuzz --resume c goes on",
            "ended before the budget was used up; fuzzvm fuzz --resume c",
        ]
    wait_until(lambda: not cluster.children())
    ((done,),) = ask(tmp_path / "c", "SELECT coalesce(sum(runs), 0) FROM done")
    ((begun,),) = ask(tmp_path / "c", "SELECT coalesce(sum(runs), 0) FROM open_task")
    after = answer(start("fuzz", "--resume", "c", "--runs", "1000", "--json", cwd=tmp_path), 1)
    assert after["open_tasks"] == 0 and after["runs"] == int(str(done)) + int(str(begun)) + 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_stop_when_the_command_is_gone(cluster: Running, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "mine.py").write_text(SCHEME)
    arguments = ("verify", "-m", "mine.py:Slow", "-s", "pmd-promotion", *cluster.executor)
    with under_way(cluster, start(*arguments, cwd=tmp_path)) as process:
        # as long as the command is there, what it waits for goes on
        time.sleep(0.5)
        assert len(cluster.children()) == 2
        process.send_signal(number)
        _, error = process.communicate(timeout=PATIENCE)
        if number == signal.SIGINT:
            assert (process.returncode, error) == (130, "interrupted: 0 of 3 runs done\n")
    wait_until(lambda: not cluster.children())


def test_a_second_ctrl_c_ends_at_once(cluster: Running, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCHEME)
    arguments = ("fuzz", "-m", "mine.py:Slow", *SMALL, "--seconds", str(FOREVER), "--campaign", "c", *cluster.executor)
    heard = tmp_path / "heard"
    program = (str(patient.SCRIPT), str(heard))
    with under_way(cluster, start(*arguments, cwd=tmp_path, program=program)) as process:
        process.send_signal(signal.SIGINT)
        wait_until(heard.exists)
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (130, "")
        assert error.split("\n\n") == ["interrupted: fuzzvm fuzz --resume c goes on", "fuzzvm: interrupted\n"]
    wait_until(lambda: not cluster.children())


@pytest.mark.slow
def test_a_mitigation_of_ones_own_goes_along(cluster: Running, tmp_path: Path) -> None:
    """No worker has the file, not even in the process that replays."""
    (tmp_path / "mine.py").write_text(SCHEME)
    arguments = ("fuzz", "-m", "mine.py:Mine", *SMALL, "--runs", "500", "--campaign", "c", "--json")
    (found,) = answer(start(*arguments, *cluster.executor, cwd=tmp_path), 1)["saved"]
    assert finish(start("replay", found, "-m", "mine.py:Mine", cwd=tmp_path))[0] == 0
    stacked = ("verify", "-m", "mine.py:Mine+vmap-trylock", *SMALL, "--json", *cluster.executor)
    assert answer(start(*stacked, cwd=tmp_path))["runs"][0]["verdict"] == "safe"
    # what is wrong with it is said as it is here
    (tmp_path / "mine.py").write_text(SCHEME.replace("yield from ()", "raise ValueError(3)\n        yield"))
    arguments = ("fuzz", "-m", "mine.py:Mine", *SMALL, "--runs", "100", "--campaign", "d")
    error = error_of(start(*arguments, *cluster.executor, cwd=tmp_path))
    assert error == f"fuzzvm: {tmp_path / 'mine.py'}:7: ValueError: 3\n"


@pytest.mark.slow
def test_a_worker_with_another_fuzzvm_is_named(cluster: Running, tmp_path: Path) -> None:
    package = tmp_path / "other" / "fuzzvm"
    for path in (ROOT / "fuzzvm").rglob("*.py"):
        copy = package / path.relative_to(ROOT / "fuzzvm")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    with (package / "machine" / "__init__.py").open("a") as file:
        file.write("# another\n")
    name = cluster.start_worker(tmp_path / "other")
    try:
        wait_until(lambda: "Starting established connection" in cluster.log(name))
        error = error_of(start("fuzz", "-m", "none", *SMALL, *cluster.executor, "--campaign", "c", cwd=tmp_path))
        assert error.startswith("fuzzvm: worker tcp://127.0.0.1:")
        assert "it has another fuzzvm (0.1.0, code " in error
        assert not (tmp_path / "c").exists()
    finally:
        cluster.workers.pop().kill()


def test_without_a_scheduler_it_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    error = error_of(start("verify", *SMALL, "--executor", "dask://127.0.0.1:1", cwd=tmp_path))
    assert error == "fuzzvm: no scheduler of dask answers at 127.0.0.1:1 within 3 seconds\n"
    assert list(tmp_path.iterdir()) == []


def commands_of_tls_section() -> dict[str, list[list[str]]]:
    """Return the words of the commands that the documentation gives for TLS, by their program."""
    section = (
        (ROOT / "docs" / "large-runs.md").read_text(encoding="utf-8").partition("\n## TLS\n")[2].partition("\n## ")[0]
    )
    lines = [line.split() for line in section.splitlines() if line.startswith("    ")]
    return {program: [words for words in lines if words[0] == program] for program in ("openssl", "dask", "fuzzvm")}


def tls_options(words: Sequence[str], folder: Path) -> list[str]:
    """Return the options for TLS among the words of a command, with files in a folder."""
    return [str(folder / word) if word.endswith(".pem") else word for word in words[words.index("--tls-ca-file") :]]


def make_certificates(folder: Path) -> None:
    folder.mkdir()
    for words in commands_of_tls_section()["openssl"]:
        subprocess.run(words, cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_with_tls_it_is_the_same(tmp_path: Path) -> None:
    """With the commands of the documentation."""
    pytest.importorskip("distributed")
    commands = commands_of_tls_section()
    ours, others = tmp_path / "ours", tmp_path / "others"
    for folder in (ours, others):
        make_certificates(folder)
    scheduler, worker = commands["dask"]
    (verify,) = commands["fuzzvm"]
    cluster = Running(
        tmp_path / "cluster",
        workers=1,
        of_scheduler=["--protocol", "tls", *tls_options(scheduler, ours)],
        of_worker=tls_options(worker, ours),
    )
    try:
        assert cluster.scheme == "tls" and scheduler[1] == "scheduler" and worker[1] == "worker"
        executor = ("--executor", f"tls://{cluster.address}")
        arguments = ("verify", "-m", "static-key", *SMALL, "--json")
        with_ours, with_others = tls_options(verify, ours), tls_options(verify, others)
        assert answer(start(*arguments, *executor, *with_ours, cwd=tmp_path))["runs"][0]["verdict"] == "safe"
        campaign = ("fuzz", "-m", "none", *SMALL, "--runs", "500", "--campaign", "c", "--json")
        assert answer(start(*campaign, *executor, *with_ours, cwd=tmp_path), 1)["runs"] == 500
        # by what dask is configured with: the environment here, a file in ~/.config/dask as a rule
        tls = "DASK_DISTRIBUTED__COMM__TLS__"
        configured = {f"{tls}CA_FILE": "ours/ca.pem", f"{tls}CLIENT__CERT": "ours/cert.pem"}
        configured[f"{tls}CLIENT__KEY"] = "ours/key.pem"
        assert answer(start(*arguments, *executor, cwd=tmp_path, **configured))["runs"][0]["verdict"] == "safe"
        # and nobody else
        assert "no scheduler of dask answers" in error_of(start(*arguments, *cluster.executor, cwd=tmp_path))
        error = error_of(start(*arguments, *executor, *with_others, cwd=tmp_path))
        assert "have no certificates of the same authority" in error
    finally:
        cluster.end()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    make_certificates(tmp_path / "c")
    secret = ("openssl", "ec", "-aes128", "-passout", "pass:x", "-in", "key.pem", "-out", "secret.pem")
    subprocess.run(secret, cwd=tmp_path / "c", check=True, capture_output=True)
    (tmp_path / "c" / "empty.pem").touch()
    os.mkfifo(tmp_path / "c" / "pipe.pem")

    def error(ca_file: str, cert: str, key: str) -> str:
        files = ("--tls-ca-file", f"c/{ca_file}", "--tls-cert", f"c/{cert}", "--tls-key", f"c/{key}")
        return error_of(start("verify", *SMALL, "--executor", "tls://127.0.0.1:1", *files, cwd=tmp_path))

    assert "c/none.pem: No such file" in error("ca.pem", "cert.pem", "none.pem")
    assert "c/pipe.pem: not a regular file" in error("pipe.pem", "cert.pem", "key.pem")
    assert "c/secret.pem: the key is encrypted" in error("ca.pem", "cert.pem", "secret.pem")
    assert "cannot be used for TLS" in error("empty.pem", "cert.pem", "key.pem")
    assert "cannot be used for TLS" in error("ca.pem", "cert.pem", "ca-key.pem")
    assert "tls:// needs certificates: --tls-ca-file" in error_of(
        start("verify", *SMALL, "--executor", "tls://127.0.0.1:1", cwd=tmp_path)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--executor", "dask://127.0.0.1:1", "--tls-ca-file", "a", "--tls-cert", "b", "--tls-key", "c"),
        ("--executor", "tls://127.0.0.1:1", "--tls-cert", "b", "--tls-key", "c"),
        ("--tls-ca-file", "a"),
    ],
)
def test_certificates_go_together_with_tls(arguments: tuple[str, ...]) -> None:
    for command in ("verify", "fuzz"):
        done = CliRunner().invoke(cli, [command, *SMALL, *arguments])
        assert done.exit_code == 2
        assert "go together, with tls://HOST:PORT" in " ".join(done.output.split())


def test_without_dask_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ModuleNotFoundError('no such module')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    error = error_of(start("fuzz", *SMALL, "--executor", "dask://127.0.0.1:1", cwd=tmp_path, PYTHONPATH=path))
    assert "needs dask.distributed: pip install 'distributed>=2024.8'" in error
    assert not (tmp_path / "campaigns").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "local",
            "dask:127.0.0.1:1",
            "dask://",
            "dask://host",
            "tls://host",
            "ssl://host:1",
            "dask://host:port",
            "dask://host:99999",
        ),
        *("dask://host:\u0661", "dask://user@host:1", "dask://a\x1b[31mb:1", "dask://a/b:1"),
    ],
)
def test_an_address_is_host_and_port(wrong: str) -> None:
    for command in ("verify", "fuzz"):
        done = CliRunner().invoke(cli, [command, *SMALL, "--executor", wrong])
        assert done.exit_code == 2
        assert f"{wrong!r} is not dask://HOST:PORT or tls://HOST:PORT" in done.output


def test_atheris_stays_here() -> None:
    done = CliRunner().invoke(cli, ["fuzz", "-e", "atheris", *SMALL, "--executor", "dask://127.0.0.1:1"])
    assert done.exit_code == 2
    assert "atheris" in done.output


@pytest.mark.slow
def test_a_scheduler_that_ends_is_said_and_the_campaign_goes_on_without(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    cluster = Running(tmp_path / "cluster", workers=1)
    try:
        arguments = ("fuzz", *CAMPAIGN, "--runs", "400000", "--campaign", "c", *cluster.executor)
        process = start(*arguments, cwd=tmp_path)
        wait_until(lambda: cluster.children() or process.poll() is not None)
        cluster.scheduler.kill()
        assert error_of(process) == f"fuzzvm: the scheduler at {cluster.address} has ended, or was restarted\n"
    finally:
        cluster.end()
    assert answer(start("fuzz", "--resume", "c", "--runs", "500", "--json", cwd=tmp_path), 1)["open_tasks"] == 0
