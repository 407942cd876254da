"""`python -m fuzzvm`."""

from fuzzvm.cli.start import main

main()
