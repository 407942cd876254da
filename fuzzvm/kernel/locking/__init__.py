"""Locks: one file a kind. They take the number of the CPU that calls, and know nothing of the kernel that uses them.

`lock` says what a kind must bring with it, so that a new one is a file here and a file of tests.
"""
