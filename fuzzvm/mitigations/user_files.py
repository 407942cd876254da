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
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import sent_files
from fuzzvm.mitigations.errors import MitigationError, short

_ALIKE = 0.85
"""How alike a method's name and a hook's must be (difflib's ratio) for the one to be taken for a slip of the other."""
CLAIMS = ("one_walker", "two_walkers", "other_mm", "collapse")
"""Attributes that say which verdict a scheme claims."""


def load(spec: str) -> type[Mitigation]:
    """Return the mitigation of `path/to/file.py:Class`. Raises MitigationError, which says what is wrong and where."""
    filename, _, class_name = spec.rpartition(":")
    if not sent_files.is_there(filename):
        raise MitigationError(f"{short(filename)}: no such file")
    sent = sent_files.get(filename)
    path = Path(filename if sent is None else sent.path)
    module_name = f"fuzzvm_user_mitigation_{path.stem}"
    module_spec = (
        importlib.util.spec_from_file_location(module_name, path)
        if sent is None
        else importlib.util.spec_from_file_location(module_name, path, loader=sent_files.SentLoader(sent))
    )
    if module_spec is None or module_spec.loader is None:
        raise MitigationError(f"{filename}: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        where = _where(error, filename if sent is None else sent.path)
        raise MitigationError(f"{where}: {type(error).__name__}: {_one_line(error)}") from error
    if not hasattr(module, class_name):
        classes = [name for name, value in vars(module).items() if _is_scheme(value, module)]
        there = f"; there is {', '.join(classes)}" if classes else ""
        raise MitigationError(f"{filename}: no class {short(class_name)!r}{there}")
    found = getattr(module, class_name)
    if isinstance(found, type) and issubclass(found, Mitigation):
        tree = ast.parse(sent_files.text_of(str(path)))
        _no_slips(found, module, {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)})
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


def _hooks() -> list[str]:
    return [name for name, value in vars(Mitigation).items() if inspect.isfunction(value) and not name.startswith("_")]


def _idle_calls(tree: ast.AST, module: ModuleType, loaded: type[Mitigation]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call of a generator function whose result is thrown away, or taken for a truth.

    In a hook that has no `yield` at all, also of one whose result is kept or returned.
    """
    names = _hooks()
    for hook in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]:
        if not any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(hook)):
            values = [node.value for node in ast.walk(hook) if isinstance(node, ast.Assign | ast.Return)]
            yield from _generators([value for value in values if value is not None], module, loaded)
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


def _generators(values: list[ast.expr], module: ModuleType, loaded: type[Mitigation]) -> Iterator[tuple[int, str]]:
    """Yield line and name of those that are calls of generator functions."""
    for value in values:
        if isinstance(value, ast.Call) and inspect.isgeneratorfunction(_called(value.func, module, loaded)):
            yield value.lineno, ast.unparse(value.func)


def _called(function: ast.expr, module: ModuleType, loaded: type[Mitigation]) -> object:
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


def _where(error: BaseException, filename: str) -> str:
    """Return file and line of what went wrong in a user's file."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if Path(traceback.tb_frame.f_code.co_filename).resolve() == Path(filename).resolve():
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return filename if line is None else f"{filename}:{line}"


def _one_line(error: BaseException) -> str:
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(message.split())
