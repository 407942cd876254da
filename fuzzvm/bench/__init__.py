"""Benchmarks: each measures fuzzvm beside a peer, in one run, as a ratio.

    suite          the benchmarks by name; result is what each returns
    flat_model     the model that every peer runs too; peers/ holds their programs
    planted        bugs of known depth
    timing         interleaved repeats, medians
    plots          SVG, where matplotlib is installed

Layer: above the searches, below `cli`. Tests: tests/bench/.
"""
