"""Schedules in the forms that generators and mutators edit.

plan       bursts: which agent runs for how many steps
orders     for each place that is raced for, in which order CPUs access it
races      which places are raced for, learned from runs
generate   Hypothesis strategies for plans and scenarios
"""
