"""Loads a mitigation from a file of the user's, and finds what would make it do nothing without a word.

Python runs a hook with a misspelt name never, and a generator that nobody iterates not at all. A scheme with either is
as good as none, and its verdict would be believed; so both are errors here, with file and line.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

from fuzzvm.files.errors import FileError
from fuzzvm.kernel.cover_points import POINTS
from fuzzvm.kernel.hooks import WALK_ASSERTIONS, Mitigation
from fuzzvm.mitigations import sent_files
from fuzzvm.mitigations.errors import MitigationError, short
from fuzzvm.supervision import inside, user_code
from fuzzvm.supervision.folder import same_folder

_ALIKE = 0.85
"""How alike a method's name and a hook's must be (difflib's ratio) for the one to be taken for a slip of the other."""
CLAIMS = ("one_walker", "two_walkers", "other_mm", "collapse")
"""Attributes that say which verdict a scheme claims."""


def load(spec: str) -> type[Mitigation]:
    """Return the mitigation of `path/to/file.py:Class`. Raises MitigationError, which says what is wrong and where."""
    filename, _, class_name = spec.rpartition(":")
    if not sent_files.is_there(filename):
        raise MitigationError(f"{short(filename)}: no such file")
    try:
        sent = sent_files.current(filename)
    except FileError as error:
        raise MitigationError(f"{short(filename)}: {error.why}") from error
    path = Path(sent.path)
    module_name = f"fuzzvm_user_mitigation_{path.stem}"
    # run from the text that was read: a file of bytecode beside it may be of another text
    module_spec = importlib.util.spec_from_file_location(module_name, path, loader=sent_files.SentLoader(sent))
    if module_spec is None or module_spec.loader is None:
        raise MitigationError(f"{filename}: not a Python file")
    inside.watch(str(path))
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    try:
        with same_folder():
            module_spec.loader.exec_module(module)
    except BaseException as error:
        if user_code.is_interrupt(error):
            raise
        where = place_of(error, filename if sent_files.get(filename) is None else sent.path)
        raise MitigationError(f"{where}: {user_code.said_by(error)}") from error
    if not hasattr(module, class_name):
        classes = [name for name, value in vars(module).items() if _is_scheme(value, module)]
        there = f"; there is {', '.join(classes)}" if classes else ""
        raise MitigationError(f"{filename}: no class {short(class_name)!r}{there}")
    found = getattr(module, class_name)
    if isinstance(found, type) and issubclass(found, Mitigation):
        tree = ast.parse(sent.text)
        _no_slips(found, module, {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)})
        for line, name in _unheard(tree):
            raise MitigationError(f"{filename}:{line}: {name} returns a value, and nobody listens to it")
        # before it is asked whether hooks yield: this says why one does not
        for line, name in _idle_calls(tree, module, found):
            raise MitigationError(f"{filename}:{line}: {name}() without `yield from` does nothing: it is a generator")
    return checked(found, spec)


def checked(loaded: object, origin: str) -> type[Mitigation]:
    """Return what was loaded, which must be a mitigation whose hooks can be run. Raises MitigationError."""
    if not (isinstance(loaded, type) and issubclass(loaded, Mitigation)):
        raise MitigationError(f"{origin}: not a subclass of fuzzvm.kernel.hooks.Mitigation")
    for name, default in vars(Mitigation).items():
        hook = getattr(loaded, name)
        if inspect.isgeneratorfunction(default) and not inspect.isgeneratorfunction(hook):
            where = f"{_place(hook)}: " if inspect.isfunction(hook) else f"{origin}: "
            raise MitigationError(f"{where}{name} is no generator; a hook yields, if only `yield from ()`")
        if inspect.isfunction(default) and not inspect.isgeneratorfunction(default) and _yields(hook):
            raise MitigationError(f"{_place(hook)}: {name} is called and not run: it must not yield")
        if inspect.isfunction(default) and hook is not default:
            wanted = list(inspect.signature(default).parameters)
            try:
                inspect.signature(hook).bind(*wanted)
            except TypeError as error:
                raise MitigationError(
                    f"{_place(inspect.unwrap(hook))}: {name} must take ({', '.join(wanted)}): {error}"
                ) from error
    for claim in CLAIMS:
        if getattr(loaded, claim) not in ("safe", "bug", None):
            raise MitigationError(f"{origin}: {claim} is {getattr(loaded, claim)!r}; it may be 'safe', 'bug' or None")
    if not isinstance(loaded.gives_up, frozenset | set | tuple | list) or not POINTS.keys() >= set(loaded.gives_up):
        known = ", ".join(POINTS)
        raise MitigationError(f"{origin}: gives_up is {loaded.gives_up!r}; it may be a set of {known}")
    if loaded.walk_assertion not in WALK_ASSERTIONS:
        known = ", ".join(map(repr, WALK_ASSERTIONS))
        raise MitigationError(f"{origin}: walk_assertion is {loaded.walk_assertion!r}; it may be {known}")
    if not isinstance(loaded.isolates_first, bool):
        raise MitigationError(f"{origin}: isolates_first is {loaded.isolates_first!r}; it must be True or False")
    return loaded


def _place(function: FunctionType) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def _is_scheme(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, Mitigation) and value.__module__ == module.__name__


def _no_slips(loaded: type[Mitigation], module: ModuleType, used: set[str]) -> None:
    """Raise MitigationError for a method that is no hook and that nothing calls, or is called nearly as a hook.

    `used` are the names of all attributes that the file reads or sets. The same holds for claims.
    """
    known = [name for name in vars(Mitigation) if not name.startswith("_")]
    for cls in loaded.__mro__:
        if cls.__module__ != module.__name__:
            continue
        for name, value in vars(cls).items():
            if name in known or name.startswith("_"):
                continue
            meant = "".join(difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE))
            if not inspect.isfunction(value):
                if meant in CLAIMS:
                    raise MitigationError(f"{module.__file__}: {cls.__name__}.{name} claims nothing; {meant} does")
                continue
            if meant or name not in used:
                raise MitigationError(
                    f"{_place(value)}: {name} is no hook, so nothing calls it; "
                    + (f"{meant} is one " if meant else f"there is {', '.join(_hooks())} ")
                    + "(a helper of your own may begin with an underscore)"
                )


def _yields(function: object) -> bool:
    """Whether calling a function makes something that has yet to be run."""
    return any(
        is_one(function)
        for is_one in (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    )


def _hooks() -> list[str]:
    return [name for name, value in vars(Mitigation).items() if inspect.isfunction(value) and not name.startswith("_")]


def _unheard(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each hook that returns a value though what it is a hook of takes none.

    `return (yield from f())` is left alone: f() may return nothing.
    """
    silent = [name for name in _hooks() if vars(Mitigation)[name].__annotations__.get("return") == "Steps[None]"]
    for cls in [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]:
        for hook in [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name in silent]:
            for line in _lines_that_return(hook):
                yield line, hook.name


def _lines_that_return(function: ast.FunctionDef) -> Iterator[int]:
    """Yield the line of each `return` of a function's own that gives more than None or what it delegates to."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.Return):
            value = node.value
            is_none = value is None or (isinstance(value, ast.Constant) and value.value is None)
            if not (is_none or isinstance(value, ast.YieldFrom)):
                yield node.lineno
        elif not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            todo += ast.iter_child_nodes(node)


def _idle_calls(tree: ast.AST, module: ModuleType, loaded: type[Mitigation]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call of a generator function whose result is thrown away, or taken for a truth.

    In a hook also of one whose result is returned, and, if it has no `yield` at all, of one whose result is kept.
    """
    names = _hooks()
    for hook in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]:
        yields = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(hook))
        kinds = ast.Return if yields else ast.Assign | ast.Return
        values = [node.value for node in ast.walk(hook) if isinstance(node, kinds)]
        yield from _generators([value for value in values if value is not None], module, loaded)
    yield from idle_generators(tree, module, loaded)


def idle_generators(tree: ast.AST, module: ModuleType, loaded: type | None = None) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call of a generator function that is thrown away, or taken for a truth.

    `loaded` is the class of which `self` is one.
    """
    for node in ast.walk(tree):
        tested: list[ast.expr] = []
        if isinstance(node, ast.Expr):
            tested = [node.value]
        elif isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            tested = [node.test]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            tested = [node.operand]
        elif isinstance(node, ast.BoolOp):
            tested = node.values
        yield from _generators(tested, module, loaded)


def _generators(values: list[ast.expr], module: ModuleType, loaded: type | None) -> Iterator[tuple[int, str]]:
    """Yield line and name of those that are calls of generator functions."""
    for value in values:
        if isinstance(value, ast.Call) and inspect.isgeneratorfunction(_called(value.func, module, loaded)):
            yield value.lineno, ast.unparse(value.func)


def _called(function: ast.expr, module: ModuleType, loaded: type | None) -> object:
    """Return what `f`, `module.f`, `self.f` or `super().f` stands for, None if it is not known."""
    match function:
        case ast.Name(name):
            return getattr(module, name, None)
        case ast.Attribute(ast.Name("self") | ast.Call(ast.Name("super")), name):
            return getattr(loaded, name, None)
        case ast.Attribute(ast.Name(holder), name):
            return getattr(getattr(module, holder, None), name, None)
        case _:
            return None


def place_of(error: BaseException, filename: str) -> str:
    """Return file and line of what went wrong in a user's file."""
    if isinstance(error, SyntaxError) and error.filename is not None and not user_code.raised_by_user(error):
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _is_same(frame.filename, filename)]
    return f"{filename}:{lines[-1]}" if lines else filename


def _is_same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()
