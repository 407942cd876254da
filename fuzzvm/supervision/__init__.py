"""Supervision of processes that run user code: it may loop for ever, crash, exit, or eat all memory.

    user_code    which code is the user's, and the place in it that an error or a stack points to
    stopping     what makes a run or a search stop from outside, at the next step of user code or at once
    channel      a page of memory that a process shares with its owner
    inside       the guard in a process that runs user code: looks at what it executes, some times a second
    outside      the owner's part: what is wrong with such a process, and what it died of
    supervisor   runs a command in a process of its own; forwards signals, and says how it ended
    call         calls a function in a process of its own, for the pytest plugin
    interpreter  how a further Python is started, one that imports nothing of the current folder

Why it is cut so: docs/decisions/0018-user-code.md.
Layer: the lowest. It knows nothing of machines, and nothing but the standard library is imported here: the supervisor
must start within milliseconds.
Tests: tests/supervision/, tests/cli/test_hostile_mitigations.py.
"""
