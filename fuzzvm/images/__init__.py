"""Scenarios on kernel images: the calls of a scenario as calls of an image's functions.

    calls       a scenario's calls as a task of compiled code
    functions   calls of any function of an image by its name
    geometry    where the pages of a scenario are in an image
    code        an image as the code that a test case runs; given, those that a user names by their folders

Layer: above `corpus`, `scenario` and `compiled`. Tests: tests/images/,
tests/cli/test_image_verify.py, test_image_functions.py, test_image_cases.py.
"""
