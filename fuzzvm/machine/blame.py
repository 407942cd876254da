"""Whose error it is: what to raise in the place of what user code has raised, with the author's file and line."""

from __future__ import annotations

import traceback
from types import GeneratorType

from fuzzvm.machine.errors import ProgramError, StoppedError
from fuzzvm.machine.ops import MAY_WAIT, Operation
from fuzzvm.machine.program import Program
from fuzzvm.supervision import user_code


def program_error(error: BaseException) -> BaseException:
    """Return what to raise in the place of what a program, or what sets one up, has raised: a ProgramError.

    It names the innermost line of the user's code: a mitigation's, where one is involved. What stands for Ctrl-C or a
    bound, or is a ProgramError already, is returned as it is.
    """
    if user_code.is_interrupt(error) or isinstance(error, ProgramError) or is_bound(error):
        return error
    place = user_code.place_in(error)
    if place is None:
        if isinstance(error, MemoryError):
            # a search knows what to do about it
            return error
        frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        place = frame.f_code.co_filename, line, ""
    return ProgramError(user_code.said_by(error), *place[:2])


def is_bound(error: BaseException) -> bool:
    """Return whether an exception stands for a bound that was reached; user code may raise one, too."""
    return isinstance(error, StoppedError) and not user_code.raised_by_user(error)


def blamed(error: BaseException) -> BaseException:
    """Return a ProgramError in the place of what came through code of the user, and any other exception as it is.

    For what user code can raise where it is not run as a program: a class attribute, a comparison.
    """
    of_fuzzvm = type(error).__module__.startswith("fuzzvm.")
    if is_bound(error) or (of_fuzzvm and not isinstance(error, StoppedError)):
        return error
    return error if user_code.place_in(error) is None else program_error(error)


def executing_error(program: Program, op: Operation | None, error: BaseException) -> BaseException:
    """Return what to raise in the place of what came of executing an operation, at which a program stands.

    The functions that it carries are the user's: an update, a condition. One that is built in, or takes another number
    of arguments, fails in no line of the user's: the hook's line that yielded it is named. What else is raised is not
    of the program.
    """
    if not isinstance(op, MAY_WAIT):
        return error
    if user_code.place_in(error) is not None:
        return program_error(error)
    of_fuzzvm = type(error).__module__.startswith("fuzzvm.")
    if of_fuzzvm or isinstance(error, MemoryError) or user_code.is_interrupt(error):
        return error
    hook = program.hook()
    return error if hook is None else ProgramError(user_code.said_by(error), hook.place.filename, hook.place.line)


def not_an_operation(program: Program, op: object) -> ProgramError:
    """Return what to raise where a program yielded something else; it names the innermost function's place."""
    _, filename, line = program.place()
    if isinstance(op, GeneratorType):
        return ProgramError(
            f"yielded {op.gi_code.co_name}(), which is a generator: `yield from` runs it", filename, line
        )
    return ProgramError(f"yielded {user_code.shown(op)}, which is no operation", filename, line)


def bad_operation(program: Program, op: object, wrong: str) -> ProgramError:
    """Return what to raise where a program yielded an operation that cannot be executed; as `not_an_operation`."""
    _, filename, line = program.place()
    return ProgramError(f"yielded {user_code.shown(op)}: {wrong}", filename, line)
