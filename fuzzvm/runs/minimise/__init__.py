"""The minimiser: fewest context switches, then fewest steps, then the smallest scenario, then fewest relaxations.

minimiser           the way in: `minimise` and its passes
landmarks           context switches by operation and function, to find them again in another scenario
smaller_scenarios   the scenarios that are tried in the place of one
image_minimise      the passes that apply to runs of kernel images
"""
