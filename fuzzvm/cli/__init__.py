"""The command line: one file a command, named as the command is.

Layer: the highest.
Tests: tests/cli/, in a subprocess.
"""
