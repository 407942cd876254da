"""Results as KTAP version 1, the form of the kernel's own tests (Documentation/dev-tools/ktap.rst)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fuzzvm.files.printable import printable


@dataclass(frozen=True)
class Result:
    """One result. `skip` is the reason why there is none, "" where there is; `said` are diagnostic lines."""

    name: str
    ok: bool
    skip: str = ""
    said: tuple[str, ...] = ()


def ktap(name: str, results: Sequence[Result], skip: str = "", said: Sequence[str] = ()) -> str:
    """Return a test with its results nested in it.

    It fails where one of them does. It is skipped for the reason `skip`, and where all of them are.
    """
    ok = all(result.ok for result in results)
    if ok and results and not skip and all(result.skip for result in results):
        skip = "every part of it was skipped"
    lines = ["KTAP version 1", "1..1"]
    if results:
        lines += ["  KTAP version 1", f"  # Subtest: {_name(name)}", f"  1..{len(results)}"]
        lines += [f"  {line}" for number, result in enumerate(results, start=1) for line in _lines(number, result)]
    lines += _lines(1, Result(name, ok, skip, tuple(said)))
    return "\n".join(lines) + "\n"


def _lines(number: int, result: Result) -> Iterator[str]:
    for line in result.said:
        yield f"# {printable(line)}".rstrip()
    end = f" # SKIP {printable(result.skip)}" if result.skip else ""
    yield f"{'ok' if result.ok else 'not ok'} {number} {_name(result.name)}".rstrip() + end


def _name(name: str) -> str:
    """Return a name as a description may be: of one line, without what begins a directive."""
    return " ".join(printable(name).replace("#", "").split())
