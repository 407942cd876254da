"""Fuzzes schedules with Atheris: the stand-alone entry point of the engine `atheris`.

    python harnesses/fuzz_schedule.py --mitigation none --seconds 20 [--scenario NAME]... [--corpus FOLDER]

Takes the options of `fuzzvm fuzz`, and ends as that does: what it finds is minimised and saved in the corpus.
"""

from __future__ import annotations

import sys

from fuzzvm.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["fuzz", "--engine", "atheris"]
    main()
