"""Coverage-guided search with Atheris: how bytes mean runs, how they are mutated, what counts as new.

Atheris never returns from its loop and instruments what is imported, so it runs in a process of its own (`child`).
"""
