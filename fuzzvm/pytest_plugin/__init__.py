"""The pytest plugin: corpus files as tests, and a marker that says which systems a mitigation must survive.

Layer: beside `cli`. pytest imports this module in every project of an environment that has fuzzvm, so it imports
nothing but pytest until there is something to do.
Tests: tests/pytest_plugin/.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from fuzzvm.pytest_plugin.corpus_files import CorpusFile
    from fuzzvm.pytest_plugin.runs import Run, Settings

MARKER = "fuzzvm"
FIXTURE = "fuzzvm_run"
DEFAULT_SECONDS = 2.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the settings."""
    group = parser.getgroup("fuzzvm")
    group.addoption(
        "--fuzzvm-seconds",
        type=_seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help=f"seconds that each {FIXTURE} of a test may search (default: {DEFAULT_SECONDS:g})",
    )
    group.addoption(
        "--fuzzvm-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the searches: the same seed, the same runs (default: 0)",
    )
    group.addoption(
        "--fuzzvm-findings",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder that findings are saved in (default: corpus/findings below the root folder)",
    )
    parser.addini(
        "fuzzvm_corpora",
        "folders of corpus files, each of which is a test (default: corpus)",
        type="paths",
        default=None,
    )
    parser.addini(
        "fuzzvm_mitigations",
        "mitigations of your own, FILE.py:CLASS, that corpus files may name: a corpus file alone never makes code run",
        type="linelist",
        default=[],
    )
    parser.addini(
        "fuzzvm_images",
        "folders of kernel images: corpus files of these are run",
        type="paths",
        default=[],
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise ValueError(text)
    return seconds


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(mitigation=NAME|CLASS, scenarios=None, memories=None, engine='surw', without=(), release=NAME, "
        f"image=DIR): run the test once for each of these scenarios and memory models; its argument {FIXTURE} searches "
        "that system",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CorpusFile | None:
    """Take the test cases that lie in a corpus."""
    if file_path.suffix != ".toml":
        return None
    folders = parent.config.getini("fuzzvm_corpora") or [parent.config.rootpath / "corpus"]
    if not any(file_path.is_relative_to(folder) for folder in folders):
        return None
    from fuzzvm.pytest_plugin import corpus_files

    return corpus_files.collect(file_path, parent)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each system that a marker asks for."""
    if FIXTURE not in metafunc.fixturenames:
        if any(mark.name == MARKER for mark in metafunc.definition.own_markers):
            pytest.fail(
                f"{metafunc.definition.nodeid}: marker {MARKER} without {FIXTURE} searches nothing", pytrace=False
            )
        return
    from fuzzvm.pytest_plugin import asked

    mark = metafunc.definition.get_closest_marker(MARKER)
    systems = asked.of_marker(mark, metafunc.definition.nodeid, metafunc.config.rootpath)
    metafunc.parametrize(FIXTURE, systems, ids=[str(system) for system in systems], indirect=True)


@pytest.fixture
def fuzzvm_run(request: pytest.FixtureRequest) -> Run:
    """A system to search, one for each that the test's marker `fuzzvm` asks for."""
    from fuzzvm.pytest_plugin import runs

    return runs.Run(request.param, _settings(request))


@pytest.fixture
def must_survive(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that searches what its arguments ask for, which are those of the marker `fuzzvm`."""
    return _settings(request).must_survive


def _settings(request: pytest.FixtureRequest) -> Settings:
    from fuzzvm.pytest_plugin.runs import Settings

    config = request.config
    return Settings(
        config.rootpath,
        seconds=config.getoption("--fuzzvm-seconds"),
        seed=config.getoption("--fuzzvm-seed"),
        findings=config.getoption("--fuzzvm-findings") or config.rootpath / "corpus" / "findings",
        record=request.node.user_properties.append,
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the story of a run where a test failed for one: where Python stood then tells nothing."""
    report = yield
    if call.excinfo is not None:
        from fuzzvm.pytest_plugin.failures import NotAsExpectedError

        if isinstance(call.excinfo.value, NotAsExpectedError):
            report.longrepr = str(call.excinfo.value)
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say how much was replayed and searched, and what was found."""
    properties: list[tuple[str, Any]] = [
        found
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for found in report.user_properties
    ]
    if any(name.startswith("fuzzvm_") for name, _ in properties):
        from fuzzvm.pytest_plugin import summary

        summary.write(terminalreporter, properties)
