"""Programs compiled lazily into automata: the second executor of the same kernel code.

All that a program will ever do follows from its local state. So a program can be run once for each distinct (local
state, response) and looked up afterwards, and states can be copied, compared and hashed, which programs cannot.

`keys` turns values into exact keys, `automaton` runs the programs. Tests: tests/exhaustive/test_automaton.py.
"""

from fuzzvm.exhaustive.automaton.automaton import Automaton, Edge, Node
from fuzzvm.exhaustive.automaton.keys import Values

__all__ = ["Automaton", "Edge", "Node", "Values"]
