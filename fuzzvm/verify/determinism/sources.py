"""Where the code of a mitigation is, so that another process finds the same classes under the same names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from fuzzvm.files.errors import FileError
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError
from fuzzvm.mitigations import sent_files
from fuzzvm.mitigations.sent_files import SentFile, SentLoader
from fuzzvm.mitigations.stacked import stack
from fuzzvm.mitigations.whose import parts_of, users_modules
from fuzzvm.supervision import inside
from fuzzvm.supervision.user_code import is_own
from fuzzvm.verify.determinism.drive import place_of


@dataclass(frozen=True)
class Source:
    """`files` are modules that Python does not find by name, with their texts; `parts` a module and a class each.

    `name` is that of the stack, where the parts are stacked.
    """

    files: tuple[tuple[str, SentFile], ...]
    parts: tuple[tuple[str, str], ...]
    name: str = ""


def source_of(mitigation: type[Mitigation]) -> Source:
    """Return where a mitigation's code is. Raises ProgramError for a class that no other process can find."""
    parts = parts_of(mitigation)
    files: dict[str, SentFile] = {}
    for part in parts:
        if "<" in part.__qualname__:
            place = place_of(part)
            message = f"{part.__qualname__} must be at the top level of its file, for a second process to find it"
            raise ProgramError(message, place.filename, place.line)
        for name in users_modules(part):
            if not _importable(name):
                files[name] = _file_of(sys.modules[name], part)
    stacked = mitigation.name if parts != (mitigation,) else ""
    return Source(tuple(files.items()), tuple((part.__module__, part.__qualname__) for part in parts), stacked)


def load(source: Source) -> type[Mitigation]:
    """Return the mitigation, loading its code. Raises whatever that raises."""
    for name, file in source.files:
        if name not in sys.modules:
            inside.watch(file.path)
            # the text that the first process runs: a file of bytecode beside the file may be of another
            spec = importlib.util.spec_from_file_location(name, file.path, loader=SentLoader(file))
            if spec is None or spec.loader is None:
                raise ImportError(f"{file.path} is not a Python file")
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    found = [reduce(getattr, name.split("."), importlib.import_module(module)) for module, name in source.parts]
    return stack(found, source.name) if source.name else found[0]  # type: ignore[return-value, arg-type]


def _file_of(module: ModuleType, part: type[Mitigation]) -> SentFile:
    if isinstance(module.__loader__, SentLoader):
        return module.__loader__.file
    try:
        return sent_files.read(str(module.__file__))
    except FileError as error:
        place = place_of(part)
        raise ProgramError(str(error), place.filename, place.line) from error


def makes_sets(mitigation: type[Mitigation]) -> bool:
    """Return whether code of the user's makes a set, or asks for a hash: what may go by the hash seed.

    That is the code of the modules of a mitigation's classes, and of those that they have imported and that are no
    libraries.
    """
    seen: set[str] = set()
    todo = [name for part in parts_of(mitigation) for name in users_modules(part)]
    while todo:
        name = todo.pop()
        module = sys.modules.get(name)
        if name in seen or module is None:
            continue
        seen.add(name)
        if _code_makes_sets(module):
            return True
        todo += [value.__name__ for value in vars(module).values() if isinstance(value, ModuleType) and _theirs(value)]
        # `from helper import f` leaves no module behind
        todo += [
            owner
            for value in vars(module).values()
            if (owner := getattr(value, "__module__", None)) in sys.modules and _theirs(sys.modules[owner])
        ]
    return False


_MAKES = frozenset({"BUILD_SET", "SET_ADD", "SET_UPDATE"})
_NAMES = frozenset({"set", "frozenset", "hash", "id"})


def _code_makes_sets(module: ModuleType) -> bool:
    get_code = getattr(module.__loader__, "get_code", None)
    code = None if get_code is None else get_code(module.__name__)
    return code is None or _makes(code)


def _makes(code: CodeType) -> bool:
    # imported here: only what is the user's is looked at
    import dis

    if _NAMES.intersection(code.co_names):
        return True
    if any(instruction.opname in _MAKES for instruction in dis.get_instructions(code)):
        return True
    return any(
        _makes(value) if isinstance(value, CodeType) else isinstance(value, frozenset) for value in code.co_consts
    )


def _importable(name: str) -> bool:
    """Whether a process that has imported nothing finds the same file by the name of a module."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        # importlib.util.find_spec() says what this process has imported by that name
        specs = (finder.find_spec(".".join(parts[:count]), path) for finder in sys.meta_path)
        spec = next((found for found in specs if found is not None), None)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return spec is not None and spec.origin == getattr(sys.modules[name], "__file__", None)


def _theirs(module: ModuleType) -> bool:
    """Whether a module is neither fuzzvm's, nor of the standard library, nor installed."""
    filename = str(getattr(module, "__file__", None) or "")
    top = module.__name__.partition(".")[0]
    installed = "site-packages" in filename or "dist-packages" in filename
    return bool(filename) and top not in sys.stdlib_module_names and not installed and not is_own(filename)
