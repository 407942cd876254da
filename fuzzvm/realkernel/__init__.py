"""Replays schedules of the model and of kernel images on a real kernel under QEMU, judged by KASAN.

Layer: beside report; may import corpus, scenario, kernel, images and dump; only cli and export import it.
Tests: tests/realkernel/, tests/cli/test_image_cases.py.
`build` makes a kernel and its guest, `replay`, `stress` and `compare` are what is done with it. The guest's sources
are in harnesses/kernel/.
"""
