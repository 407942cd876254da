"""Calls in several processes of this machine, each of them watched.

    parallel         the way in: `call_all` makes calls that do not depend on each other
    same_processes   processes that stay for the calls after them
    worker_process   one such process
    interrupts       Ctrl-C while processes are started

Layer: above `supervision` and `machine`; it knows no search. Tests: tests/cli/test_hostile_mitigations.py,
test_interrupts.py, test_verify.py.
"""
