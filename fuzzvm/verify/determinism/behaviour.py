"""What the programs of a system did, and after which responses, in a form that goes from process to process.

A path is one program's from its beginning on: what it did first, then pairs of a response and what it did after that.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fuzzvm.kernel.arch import Architecture
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.machine.blame import is_bound
from fuzzvm.machine.ops import Annotation, Await, Operation, Rmw
from fuzzvm.supervision import user_code
from fuzzvm.verify.determinism.text import text_of

RETURNS = "returns"


@dataclass(frozen=True)
class Behaviour:
    """Paths: each a CPU, then numbers of texts and of responses in turn, a text first and last.

    `responses` is the pickle of all of them. What it stands for in a process is `load_responses`.
    """

    texts: tuple[str, ...]
    responses: bytes
    paths: tuple[tuple[int, ...], ...]


class UnsendableError(Exception):
    """A value cannot be sent to another process; the message says which and why."""


def done(op: Operation, stack: Sequence[str]) -> str:
    """Return the text for an operation, and the functions that it is in, innermost first."""
    return f"{text_of(op)} in {'<'.join(stack)}"


def failed(error: str, stack: Sequence[str]) -> str:
    """Return the text for an error that a program raises."""
    return f"fails: {error} in {'<'.join(stack)}"


def step_text(
    before: Operation | None, response: Any, notes: Iterable[tuple[Annotation, Sequence[str]]], after: str
) -> str:
    """Return the text for what follows a response: what functions of the operation say, annotations, and `after`."""
    said = [f"says {text_of(note)} in {'<'.join(stack)}" for note, stack in notes]
    return "; ".join([*_functions_of(before, response), *said, after])


def _functions_of(op: Operation | None, response: Any) -> list[str]:
    """Return what the functions say that an operation has with it, which memory calls and no program."""
    said = []
    if isinstance(op, Await | Rmw) and op.when is not None:
        said.append(f"waits for {_result(op.when, response)}")
    if isinstance(op, Rmw):
        said.append(f"makes {_result(op.update, response)}")
    return said


def _result(function: Any, value: Any) -> str:
    try:
        return text_of(function(value))
    except BaseException as error:
        if is_bound(error) or user_code.is_interrupt(error):
            raise
        return type(error).__name__


class Writer:
    """Numbers texts and responses."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._texts: dict[str, int] = {}
        self._responses: dict[str, int] = {}
        self._values: list[Any] = []
        self.paths: list[tuple[int, ...]] = []

    def text(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def response(self, value: Any) -> int:
        number = self._responses.setdefault(text_of(value), len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def behaviour(self) -> Behaviour:
        file = io.BytesIO()
        pickler = _Pickler(file, self._kernel)
        try:
            pickler.dump(self._values)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UnsendableError(f"{error}; define classes and functions at the top level of their file") from error
        return Behaviour(tuple(self._texts), file.getvalue(), tuple(self.paths))


class _Pickler(pickle.Pickler):
    """Pickles what is one object for all of a kernel by name."""

    def __init__(self, file: io.BytesIO, kernel: Kernel) -> None:
        super().__init__(file)
        self._kernel = kernel

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        if isinstance(obj, Kernel):
            return "kernel", obj.cpu
        if isinstance(obj, Architecture):
            return "arch", 0
        if isinstance(obj, Mitigation):
            whole = self._kernel.mitigation
            return "scheme", -1 if obj is whole else getattr(whole, "_schemes", ()).index(obj)
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kernel: Kernel) -> None:
        super().__init__(file)
        self._kernel = kernel

    def persistent_load(self, pid: tuple[str, int]) -> Any:
        what, which = pid
        if what == "kernel":
            return self._kernel.on(which)
        if what == "arch":
            return self._kernel.arch
        whole = self._kernel.mitigation
        return whole if which < 0 else whole._schemes[which]  # type: ignore[attr-defined]


def load_responses(behaviour: Behaviour, kernel: Kernel) -> list[Any]:
    """Return the responses of a behaviour as values of this process."""
    values: list[Any] = _Unpickler(io.BytesIO(behaviour.responses), kernel).load()
    return values
