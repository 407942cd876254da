"""Calls on other machines, by way of dask.distributed.

    connection   a scheduler, its workers, and what came of what they were given; all that knows dask on this side
    calls        `processes.parallel.call_all` there;  executor   the executor of a campaign there
    session      what a command tells every worker: what to be the same as, files, memory
    worker       what a worker of dask does: hands each task to a process of its own; child is that process
    outcomes     what comes back

`worker` knows dask as well, on the other side. Why it is cut so: docs/decisions/0014-cluster.md.
Tests: tests/campaigns/cluster/, tests/cli/test_cluster.py.
"""
