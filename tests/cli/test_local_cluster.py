"""`fuzzvm verify` on a LocalCluster of dask: workers below nannies, which start them again when they die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="dask.distributed is not installed (pip install distributed)")

import distributed

from tests.campaigns.killing import alive, children
from tests.cli.test_cluster import answer, start, verdicts
from tests.clock import wait_until


def test_a_worker_that_is_started_again_by_its_nanny_changes_nothing(tmp_path: Path) -> None:
    arguments = ("verify", "-m", "static-key", "-m", "vmap-trylock", "-s", "two-walkers", "--memory", "sc")
    arguments += ("--no-reduction", "--json")
    alone = verdicts(answer(start(*arguments, "--jobs", "1", cwd=tmp_path)))
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        # any port: another cluster of this machine may have dask's own
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        process = start(*arguments, "--executor", address, cwd=tmp_path)
        first = cluster.workers[0].pid
        wait_until(lambda: any(map(alive, children(first))) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        os.kill(first, signal.SIGKILL)
        assert verdicts(answer(process)) == alone
        wait_until(lambda: cluster.workers[0].pid not in (None, first))
