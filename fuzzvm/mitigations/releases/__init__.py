"""Kernels that people run, by name: what each release does against the race, on each architecture."""
