"""Workloads: long runs on the real fan-out, counted instead of searched, with readers beside them.

Layer: above `scenario`, whose `System` boots the kernel that a workload runs on.
Tests: tests/workload/.
"""
