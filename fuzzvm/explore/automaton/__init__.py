"""Programs compiled lazily into automata: the second executor of the same kernel code.

A CPU's program is a generator, and all that it will ever do follows from its chain of frames: for each its code, where
it stands, and its local variables. So a program can be run once for each distinct (local state, response) and looked up
afterwards, and states can be copied, compared and hashed, which generators cannot.

`suspension` reads from the bytecode what a frame's future depends on, `keys` turns values into exact keys, `automaton`
runs the generators. Tests: tests/explore/test_automaton.py.
"""

from fuzzvm.explore.automaton.automaton import Automaton, Edge, Node
from fuzzvm.explore.automaton.keys import Values
from fuzzvm.explore.automaton.suspension import UnkeyableError

__all__ = ["Automaton", "Edge", "Node", "UnkeyableError", "Values"]
