"""Hypothesis in tests: nothing that a busy machine could fail. A cluster. Samples of products."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.campaigns.cluster.running import Running
    from tests.cli.forked import Commands

FULL = "--full"
ONE_IN = 10
"""Of a product of one parameter, the part that is run without --full."""
SAMPLED = (
    "cli/test_b4_check.py",
    "cli/test_campaign.py",
    "cli/test_campaign_full_disk.py",
    "cli/test_check.py",
    "cli/test_check_forms.py",
    "cli/test_check_inputs.py",
    "cli/test_cli.py",
    "cli/test_cluster.py",
    "cli/test_export.py",
    "cli/test_hostile_campaigns.py",
    "cli/test_hostile_files.py",
    "cli/test_hostile_mitigations.py",
    "cli/test_image.py",
    "cli/test_image_cases.py",
    "cli/test_image_functions.py",
    "cli/test_image_verify.py",
    "cli/test_kernel.py",
    "cli/test_litmus.py",
    "cli/test_mail.py",
    "cli/test_necessity.py",
    "cli/test_nondeterministic.py",
    "cli/test_ptdump.py",
    "cli/test_releases.py",
    "cli/test_vacuous.py",
    "cli/test_verify.py",
    "cli/test_workload.py",
    "dump/test_reader.py",
    "campaigns/test_damaged.py",
    "campaigns/cluster/test_calls.py",
    "campaigns/cluster/test_connection.py",
    "verify/determinism/test_schemes.py",
    "exhaustive/test_automaton.py",
    "runs/test_engines.py",
    "exhaustive/test_exhaustive.py",
    "exhaustive/test_normal_form.py",
    "exhaustive/test_packed.py",
    "exhaustive/test_reductions.py",
    "exhaustive/test_weak_reductions.py",
    "exhaustive/test_worth.py",
    "pytest_plugin/test_corpus_files.py",
    "pytest_plugin/test_images.py",
    "pytest_plugin/test_runs.py",
    "report/html/test_check_page.py",
    "report/html/test_hostile.py",
    "report/html/test_matrix_page.py",
    "report/html/test_story_page.py",
)
"""Files that take two thirds of the time: most of their tests start processes or explore whole state spaces."""
FUNCTIONS_IN = 12
"""Of the test functions of such a file, the part that is run without --full; those that are marked `always` are."""
FOLDERS = (
    "bench",
    "campaigns",
    "compare",
    "compiled",
    "dump",
    "exhaustive",
    "export",
    "litmus",
    "realkernel",
    "report",
    "runs",
    "verify",
    "workload",
)
"""Folders whose other files come next in time."""
FUNCTIONS_IN_FOLDERS = 5
"""Of the test functions of such a file, the part that is run without --full."""

# what a shell has ignored on behalf of nohup, fuzzvm leaves ignored: tests send it, and wait for what it does
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(FULL, action="store_true", help="run slow tests as well, and all of those that are products")


def pytest_configure(config: pytest.Config) -> None:
    for text in (
        "product: one test for each combination of what ships; without --full, a sample that has every value",
        "slow: left out without --full; what it is about has a smaller test that is not",
        "always: run without --full, too, though only a sample of its file is",
    ):
        config.addinivalue_line("markers", text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests, and of products all but a sample: the same in every run, so that a failure comes again."""
    if config.getoption(FULL):
        return
    # a test that is asked for by name is run
    unnamed = [item for item in items if not any(item.nodeid in one for one in config.args)]
    left_out = {item.nodeid for item in unnamed if item.get_closest_marker("slow")}
    products: dict[str, list[pytest.Item]] = {}
    for item in unnamed:
        if item.get_closest_marker("product") and item.nodeid not in left_out:
            products.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for product in products.values():
        left_out |= {item.nodeid for item in product} - {item.nodeid for item in _sample(product)}
    left_out |= _not_in_sample([item for item in unnamed if item.nodeid not in left_out])
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]


def _not_in_sample(items: list[pytest.Item]) -> set[str]:
    """Return the ids of the tests of sampled files that are left out."""
    files: dict[str, dict[str, list[str]]] = {}
    for item in items:
        path, _, function = item.nodeid.partition("[")[0].partition("::")
        if _part(path) > 1 and not item.get_closest_marker("always"):
            files.setdefault(path, {}).setdefault(function, []).append(item.nodeid)
    left_out: set[str] = set()
    for path, functions in files.items():
        drawn = sorted(functions, key=lambda function: hashlib.blake2b(f"{path}::{function}".encode()).digest())
        for function in drawn[-(-len(drawn) // _part(path)) :]:
            left_out |= set(functions[function])
    return left_out


def _part(path: str) -> int:
    """Return that one in so many functions of a file is run without --full."""
    if path.endswith(SAMPLED):
        return FUNCTIONS_IN
    return FUNCTIONS_IN_FOLDERS if path.removeprefix("tests/").partition("/")[0] in FOLDERS else 1


def _sample(product: list[pytest.Item]) -> list[pytest.Item]:
    """Return tests in which every value of every parameter is there; of one parameter, one in `ONE_IN`."""
    drawn = sorted(product, key=lambda item: hashlib.blake2b(item.nodeid.encode()).digest())
    values = [tuple(item.callspec.params.items()) for item in drawn]  # type: ignore[attr-defined]
    if len(values[0]) == 1:
        return drawn[: -(-len(drawn) // ONE_IN)]
    sample, seen = [], set[str]()
    for item, parameters in zip(drawn, values, strict=True):
        named = {f"{name}={value!r}" for name, value in parameters}
        if named - seen:
            sample.append(item)
            seen |= named
    return sample


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """A process that runs commands of fuzzvm quickly."""
    from tests.cli.forked import Commands

    with Commands() as running:
        yield running


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if find_spec("distributed") is None:
        pytest.skip("dask.distributed is not installed (pip install distributed)")
    from tests.campaigns.cluster.running import Running

    running = Running(tmp_path_factory.mktemp("cluster"))
    yield running
    running.end()


@pytest.fixture
def cluster(shared_cluster: Running) -> Running:
    """A cluster of two workers that has nothing to do."""
    shared_cluster.restore()
    return shared_cluster
