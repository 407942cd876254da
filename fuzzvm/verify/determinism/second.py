"""The second process: `python -m fuzzvm.verify.determinism.second CHANNEL`, started anew with another hash seed.

CHANNEL is the descriptor by which its owner watches it. It gets a pickled `Asked` on standard input, and writes an
`Answer` as JSON to standard output, which nothing else gets to: what code of the user prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Answer:
    """`message` says what is not the same, with its place; '' where nothing was found. `more` asks for more hash seeds.

    `unusable` says that nothing could be compared, and why: the code cannot be loaded here, for one.
    """

    message: str = ""
    filename: str = ""
    line: int = 0
    more: bool = False
    unusable: str = ""


def main() -> None:
    """Answer what is asked on standard input."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # imported here: what is replaced must be replaced before the code of the user is loaded
    from fuzzvm.supervision import inside
    from fuzzvm.supervision.channel import Channel
    from fuzzvm.verify.determinism import clocks

    inside.begin(Channel(int(sys.argv[1])))
    inside.arm()
    calls = clocks.install()
    answer = _answer(calls)
    with out:
        json.dump(asdict(answer), out)


def _answer(calls: clocks.Calls) -> Answer:  # type: ignore[name-defined]  # noqa: F821
    from fuzzvm.supervision import user_code
    from fuzzvm.verify.determinism import sources
    from fuzzvm.verify.determinism.asked import Asked, Nondeterminism

    asked: Asked = pickle.load(sys.stdin.buffer)
    try:
        mitigation = sources.load(asked.source)
    except BaseException as error:
        if user_code.is_interrupt(error):
            raise
        return Answer(unusable=user_code.said_by(error))
    at_import = calls.take()
    for question in asked.questions:
        found = question.answered(mitigation, asked.passes)
        for what, filename, line in calls.take():
            message = f"a hook calls {what}(): what it does may depend on its arguments and the responses alone"
            found = found or Nondeterminism(message, filename, line)
        if found is not None:
            return Answer(found.message, found.filename, found.line)
    return Answer(more=bool(at_import) or sources.makes_sets(mitigation))


if __name__ == "__main__":
    main()
