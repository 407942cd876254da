"""Boundary functions that the user states for names of an image: a Python file of generators, run as mitigations are.

Each function of the file whose name begins with no underscore is the boundary function of that name; it takes a
`Caller`. What it is made of is in `compiled.run.primitives`; `docs/compiled.md` has an example.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.environment import Boundary
from fuzzvm.exhaustive.verdict import DisagreementError
from fuzzvm.files.reading import read_bytes
from fuzzvm.mitigations.user_files import idle_generators, place_of
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.supervision import inside, user_code
from fuzzvm.supervision.folder import same_folder
from fuzzvm.verify.images import ImageRun, verify_image
from fuzzvm.verify.matrix import Bounds

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Stated:
    """Boundary functions of one file, by name; `sha256` is that of its text."""

    path: Path
    sha256: str
    functions: Mapping[str, Boundary]


def load(path: Path, image: Image) -> Stated:
    """Return what a file states for an image. Raises ImageError and FileError, which say what is wrong and where."""
    text = read_bytes(path, MAX_BYTES)
    filename = str(path.absolute())
    module = ModuleType(f"fuzzvm_user_boundary_{path.stem}")
    module.__file__ = filename
    inside.watch(filename)
    sys.modules[module.__name__] = module
    try:
        with same_folder():
            # run from the text that was read: what the digest is of
            exec(compile(text, filename, "exec"), module.__dict__)
    except BaseException as error:
        if user_code.is_interrupt(error):
            raise
        raise ImageError(f"{place_of(error, filename)}: {user_code.said_by(error)}") from error
    for line, name in idle_generators(ast.parse(text), module):
        raise ImageError(f"{filename}:{line}: {name}() without `yield from` does nothing: it is a generator")
    functions = {
        name: _checked(name, value, image) for name, value in vars(module).items() if _states(value, module, name)
    }
    if not functions:
        raise ImageError(f"{filename}: it states no boundary function: there is no function in it")
    return Stated(path, hashlib.sha256(text).hexdigest(), functions)


def verify_stated(image: Image, scenario: Scenario, memory: str, bounds: Bounds, stated: Stated | None) -> ImageRun:
    """Explore every schedule, as `verify_image`; twice if functions of the user's are executed.

    What such a function does must follow from its arguments and responses. Raises ImageError where the second search,
    in which variables of the file are as the first has left them, finds anything else.
    """
    if stated is None:
        return verify_image(image, scenario, memory, bounds)
    try:
        first, second = (verify_image(image, scenario, memory, bounds, stated.functions) for _ in range(2))
    except DisagreementError as error:
        raise ImageError(f"{stated.path}: a function does not do the same each time: {error}") from error
    if first.verdict.complete and second.verdict.complete and _found(first) != _found(second):
        raise ImageError(f"{stated.path}: a function does not do the same each time: a second search differs")
    return first


def _found(run: ImageRun) -> tuple[object, ...]:
    verdict = run.verdict
    return verdict.verdict, verdict.states, verdict.transitions, verdict.schedule


def _states(value: object, module: ModuleType, name: str) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")


def _checked(name: str, function: Callable[..., object], image: Image) -> Boundary:
    """Return a function of the user's that can be a boundary function of an image. Raises ImageError."""
    assert isinstance(function, FunctionType)
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    if not inspect.isgeneratorfunction(function):
        raise ImageError(f"{where}: {name} is no generator; a boundary function yields, if only `yield from ()`")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise ImageError(f"{where}: {name} must take the caller alone: {error}") from error
    try:
        symbol = image.symbol(name)
    except ImageError as error:
        raise ImageError(f"{where}: {error} (a helper of your own may begin with an underscore)") from error
    if symbol.defined and symbol.kind != "function":
        raise ImageError(f"{where}: {name} is no function of the image")
    return function
