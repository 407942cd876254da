"""Compiled functions as programs of the machine.

    task          programs, memory and property of a scenario
    environment   what the CPUs of a task share, and what each begins with
    program       a CPU that runs calls of the image's functions; accesses, what its loads and stores do; cpu, its state
    knowledge     which locations nobody writes, so that reading them is no step
    memory_map    where the image's addresses are in the machine's memory
    boundary      functions that the model stands for, made of what is in `primitives`
    links         what must hold of page tables
    every_access  schedules of the task in which every access is a step, which files keep
    arm64, x86_64 what differs by architecture

Tests: tests/compiled/run/.
"""
