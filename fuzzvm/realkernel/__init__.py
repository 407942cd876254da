"""Replays schedules of the model on a real kernel under QEMU, judged by KASAN.

Layer: beside report; may import corpus, scenario, kernel and dump, and only cli imports it. Tests: tests/realkernel/.
`build` makes a kernel and its guest, `replay`, `stress` and `compare` are what is done with it. The guest's sources
are in harnesses/kernel/.
"""
