"""Search by runs: executes one schedule after another, and cannot prove that there is no bug.

    engines      the way in: an engine runs systems until its budget is used up or a run fails
    strategies   how random engines make the choices of a run
    plans        schedules as bursts, and orders of accesses, as Hypothesis and Atheris draw and mutate them
    stretch      many runs of the calls that the CPUs of an interactive system have been given
    walks        runs under sc as walks through the tables of the exhaustive search
    guided       the process in which Atheris runs
    minimise     makes a failing run smaller; `minimise.minimiser.minimise` is the way in
    coverage     which pairs of conflicting operations runs have covered; case_features, of test cases
    happened     which cover points runs have met
    estimate     how many pairs no run has covered yet

Others use `engines`, `minimise.minimiser`, `coverage`, `case_features` and `happened`; benchmarks also use
`strategies`, and the harnesses `stretch` and `plans.generate`.

Layer: above `images`. It knows the exhaustive search, which the minimiser asks for shortest runs, and neither verdicts
on systems (`verify`) nor campaigns. Tests: tests/runs/.
"""
