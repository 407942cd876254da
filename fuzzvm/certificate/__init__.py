"""The checker of certificates, `fuzzvm-check`: written from docs/certificate.md, and apart from every search.

It stands on the machine, the kernel model and the scenarios, and imports nothing of `fuzzvm.exhaustive`: it has stepped
through all that it accepts. Tests: tests/certificate/.
"""
