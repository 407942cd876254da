"""`python -m fuzzvm`."""

from fuzzvm.cli.main import main

main()
