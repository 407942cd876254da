"""Runs of a search as walks through the state space: a step that was taken before is looked up and not executed.

Under sequential consistency, what a step does follows from the shared state and the local state of one CPU, so the
tables of `fuzzvm.exhaustive.space` serve runs as they serve searches. A chooser makes the choices, and makes
the same ones as on a machine. What goes wrong is run again on a machine, which has the last word.

    runs       the way in: a run as a walk where memory is sc, else on a machine
    walker     walks of one task, step by step
    compiled   the same in compiled code; loops has its inner loops, pairs the coverage of a path
"""
