"""Hypothesis in tests: no deadlines, since a busy machine is no failure. And a cluster for those that want one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.explore.cluster.running import Running

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if find_spec("distributed") is None:
        pytest.skip("dask.distributed is not installed (pip install 'fuzzvm[distributed]')")
    from tests.explore.cluster.running import Running

    running = Running(tmp_path_factory.mktemp("cluster"))
    yield running
    running.end()


@pytest.fixture
def cluster(shared_cluster: Running) -> Running:
    """A cluster of two workers that has nothing to do."""
    shared_cluster.restore()
    return shared_cluster
