"""Does a scheme do the same every time? What a hook does may depend on its arguments and on the responses, and no more.

A verdict is about one behaviour. A hook that goes by the order of a set, by the time, by random numbers or by what it
remembers has several, and whichever a search happened to see is judged. So what a search has learnt of the programs
is driven again: in a second process, with another hash seed, in another order, and more than once.

    behaviour    what programs did after which responses; from_automata is all that a search knows of it
    text         values as text that is the same in every process
    drive        lets programs go through a behaviour, and names the first difference
    clocks       notices a hook that asks for the time or for random numbers
    sources      where the code of a mitigation is, so that another process finds it
    asked        what second processes are asked; replaying is to replay a test case
    second       the second process: `python -m fuzzvm.verify.determinism.second`
    elsewhere    asks second processes
    scheme       what is asked of a scheme of the user's before and after a search

Why it is done so, and what it cannot notice: docs/decisions/0017-honest-verdicts.md.
Tests: tests/verify/determinism/, tests/cli/test_nondeterministic.py.
"""
