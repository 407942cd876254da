"""What a test asks to be searched: a mitigation, a release, or a kernel image, in scenarios, under memory models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import pytest

from fuzzvm.compiled.errors import ImageError
from fuzzvm.files.errors import FileError
from fuzzvm.images.given import image_code
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.blame import blamed
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.stacked import StackingError, stack
from fuzzvm.runs import engines
from fuzzvm.scenario import ordering_points, own, shipped
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import default_memory
from fuzzvm.scenario.target import Code, Target
from fuzzvm.supervision import inside
from fuzzvm.supervision.call import call
from fuzzvm.supervision.errors import UserCodeError

if TYPE_CHECKING:
    pass

T = TypeVar("T")
Names: TypeAlias = tuple[str, ...] | list[str]
Scheme: TypeAlias = str | type[Mitigation]

WRONG = (TypeError, KeyError, registry.MitigationError, ScenarioError, UserCodeError, ImageError, FileError)
"""What is raised where a test asks for what is not there; the first argument is one line that says so."""


@dataclass(frozen=True)
class AskedSystem:
    """One system to search, and the engine to search it with.

    `what` is a mitigation's class, where to load it from, or the folder of an image. To load a mitigation runs code of
    the user, so it is not done in pytest's own process.
    """

    name: str
    what: Scheme | Path
    scenario: Scenario
    memory: str
    engine: str
    without: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scenario.name}-{self.memory}"

    def code(self) -> Code:
        """Return what runs; called where user code may run. Raises MitigationError and ImageError."""
        if isinstance(self.what, Path):
            return image_code(self.what)
        if isinstance(self.what, str):
            return registry.get(self.what)
        inside.watch(inspect.getfile(self.what))
        return self.what

    def target(self, code: Code) -> Target:
        """Return what is searched, given what runs."""
        return Target(code, self.scenario, self.memory, self.without, self.name)


def of_marker(mark: pytest.Mark | None, where: str, root: Path) -> list[AskedSystem]:
    """Return the systems that a test's marker asks for, each scenario under each memory model.

    Paths count from `root`. Fails the test's collection, in one line, for what is not there.
    """
    if mark is None:
        pytest.fail(f"{where}: fuzzvm_run needs the marker fuzzvm, which says what to search", pytrace=False)
    try:
        return asked(root, *mark.args, **mark.kwargs)
    except WRONG as error:
        wrong = said_by(error)
    # outside, or pytest shows what it came from as well
    pytest.fail(f"{where}: marker fuzzvm: {wrong}", pytrace=False)


def said_by(error: Exception) -> str:
    """Return what an error of `WRONG` says."""
    return str(error.args[0] if error.args else error).replace("asked()", "it")


def asked(
    root: Path,
    mitigation: Scheme | None = None,
    scenarios: Sequence[str | Scenario] | None = None,
    memories: Names | None = None,
    engine: str = engines.DEFAULT,
    without: Names = (),
    *,
    release: str | None = None,
    image: str | Path | None = None,
    memory: str | None = None,
) -> list[AskedSystem]:
    """Return the systems of a mitigation, a release, both stacked, or an image. Raises the errors of `WRONG`."""
    if memory is not None:
        if memories is not None:
            raise TypeError("memory and memories exclude each other")
        memories = (memory,)
    for one in memories or ():
        if one not in memory_models.names():
            raise KeyError(f"no memory model {one!r}; there are {', '.join(memory_models.names())}")
    if engine not in engines.names():
        raise KeyError(f"no engine {engine!r}; there are {', '.join(engines.names())}")
    for point in without:
        if point not in ordering_points.names():
            raise KeyError(f"no ordering point {point!r}; there are {', '.join(ordering_points.names())}")
    given = None if scenarios is None else [_scenario(one, root) for one in scenarios]
    name: str
    what: Scheme | Path
    if image is not None:
        for other, value in (("mitigation", mitigation), ("release", release), ("without", without)):
            if value:
                raise TypeError(f"image and {other} exclude each other")
        name, what, chosen = _image(root / image, given, engine)
    else:
        name, what = _scheme(mitigation, release, root)
        chosen = list(shipped.shipped().values()) if given is None else given
    return [
        AskedSystem(name, what, scenario, one, engine, tuple(without))
        for scenario in chosen
        for one in memories or [default_memory(scenario)]
    ]


def _scheme(mitigation: Scheme | None, release: str | None, root: Path) -> tuple[str, Scheme]:
    """Return the name of a mitigation, of a release, or of one on the other, and its class or where to load it from."""
    if release is not None and release not in registry.releases():
        raise KeyError(f"no release {release!r}; there are {', '.join(registry.releases())}")
    if mitigation is None:
        if release is None:
            raise TypeError("nothing to search: give a mitigation, a release or an image")
        return release, release
    if isinstance(mitigation, str):
        name = mitigation if release is None else f"{release}+{mitigation}"
        spec = place_of(name, root)
        apart(lambda: registry.get(spec).name)
        return name, spec
    if not (isinstance(mitigation, type) and issubclass(mitigation, Mitigation)):
        raise TypeError(f"{mitigation!r} is neither a mitigation's name nor its class")
    path = Path(inspect.getfile(mitigation))
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    name = f"{shown}:{mitigation.__qualname__}"
    if release is None:
        return name, mitigation
    name = f"{release}+{name}"
    try:
        return name, stack([registry.get(release), mitigation], name)
    except StackingError as error:
        raise TypeError(f"{name}: {error}") from error


def _image(folder: Path, given: list[Scenario] | None, engine: str) -> tuple[str, Path, list[Scenario]]:
    """Return the name of an image, its folder, and the scenarios to run: those given, or all that it can run."""
    code = image_code(folder)
    from fuzzvm.runs.engines.strategy_loop import StrategyEngine
    from fuzzvm.verify.images import runnable

    if not isinstance(engines.get(engine), StrategyEngine):
        raise KeyError(f"engine {engine!r} is not there for images")
    can, cannot = runnable(
        code.image, list(shipped.shipped().values()) if given is None else given, named=given is not None
    )
    if given is not None and cannot:
        scenario, why = cannot[0]
        raise ScenarioError(f"scenario {scenario.name} on image {folder}: {why}")
    return f"image {code.digest[:12]}", folder, can


def place_of(name: str, root: Path) -> str:
    """Return what `registry.get` takes for the mitigation of that name; a path in it counts from `root`."""
    first, plus, rest = name.partition("+")
    if plus and first in registry.releases():
        return f"{first}+{place_of(rest, root)}"
    return str(root / name) if registry.is_path(name) else name


def apart(function: Callable[[], T]) -> T:
    """Return what a function returns that runs code of the user: it is called in a process of its own.

    Raises UserCodeError where that code does not come to an end, or has ended the process.
    """
    return call(function, blamed)


def _scenario(given: str | Scenario, root: Path) -> Scenario:
    return given if isinstance(given, Scenario) else own.get(given, root)
