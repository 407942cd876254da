"""Campaigns: many searches by runs, over systems and engines, on this machine or on a cluster.

    plain       a campaign in memory: one search after another in this process, of mitigations or kernel images
    necessity   leaves out one ordering point after another, and searches each
    run         the loop of a campaign that lasts: its searches are cut into tasks that any worker can run
    tasks       what a task is, and how a worker performs it
    settle      checks that a failing run fails again, and minimises it
    executor    how tasks come to be run: `local` on this machine, `cluster` on others
    shares      which task is next
    journal     what is kept on disk, with rows, commits, folder, settings, own_code, integrity
    recover     goes on from a damaged folder, with replays, salvage, guilty
    signals     what Ctrl-C does to a search
    sitting     begins a campaign, or goes on with one; status reads one from outside

Nothing is lost when a worker of a campaign that lasts is killed. Why it is cut so: docs/decisions/0011-campaigns.md.

Layer: above `runs` and `verify`, below `cli`. `cluster` is known to the command line alone, which also verifies there.
Tests: tests/campaigns/, tests/cli/test_campaign.py.
"""
