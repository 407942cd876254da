"""Campaigns that last: a folder, a journal, several workers, and nothing lost when one of them is killed.

`explore.campaign` is one search in one process. Here a search is cut into tasks that any worker can run: `tasks` says
what they are, `executor` how they come to be run and `local` how on this machine, `split` which is next, `journal` and
`folder` what is kept on disk, `run` is the loop over all of it, `sitting` begins one, `status` reads from outside.
Why it is cut so: docs/decisions/0011-campaigns.md. Tests: tests/explore/campaigns/.
"""
