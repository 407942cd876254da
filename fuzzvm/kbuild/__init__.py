"""Runs the kernel's own build system: sources, patches, configuration, packages, and make.

Layer: at the bottom, beside machine; imports nothing of fuzzvm. `realkernel` builds whole kernels with it, `compiled` a
few objects. Tests: tests/kbuild/.
"""
