"""What comes back of a call that was made elsewhere: data, whatever happened."""

from __future__ import annotations

import importlib
import pickle
import traceback
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Returned:
    """The call has returned; `pickled` is what."""

    pickled: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    """The call has raised an exception: by name, as few come through a pickle, with its message and its traceback."""

    module: str
    name: str
    message: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """Return what stands for an exception."""
        text = "".join(traceback.format_exception(error))
        return cls(type(error).__module__, type(error).__qualname__, str(error), text)

    def again(self) -> Exception:
        """Return the exception with its class and its message; RuntimeError where this process has no such class."""
        kind = getattr(importlib.import_module(self.module), self.name, None) if _known(self.module) else None
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return RuntimeError(f"on another machine:\n{self.text}")
        # not by calling the class, which may want more than a message
        error = kind.__new__(kind, self.message)
        error.args = (self.message,)
        error.add_note(f"on another machine:\n{self.text}")
        return error


@dataclass(frozen=True, slots=True)
class Ended:
    """The process of the call has died, or its machine. As `executor.Died`."""

    how: str
    by_others: bool
    by_user_code: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker cannot make calls of this session: one line that says why."""

    why: str


Outcome: TypeAlias = Returned | Raised | Ended | Refused


def _known(module: str) -> bool:
    """Return whether a module may be imported for the sake of an exception: nobody's code but ours and Python's."""
    return module.split(".")[0] in ("fuzzvm", "builtins")


def value_of(outcome: Returned) -> object:
    """Return what a call has returned."""
    return pickle.loads(outcome.pickled)
