"""The command line, and what its commands share.

Layer: the highest.
Tests: tests/cli/, in a subprocess.
"""
