"""Compiled functions as programs of the machine.

    memory_map  where the image's addresses are in the machine's memory
    liveness    which registers the code may still read
    knowledge   which locations nobody writes, so that reading them is no step
    program     a CPU that runs calls of the image's functions
    boundary    functions that the model stands for: allocation, locks that wait, printing
    task        programs, memory and property of a scenario

Tests: tests/compiled/run/.
"""
