"""Verdicts on systems: the exhaustive search, applied to mitigations, scenarios and kernel images.

    matrix          the way in: `verify_cell`, and `verify_all` for many cells side by side
    system          a verdict with the cover points that were met; met finds these
    lock_order      orders of locks over all schedules
    determinism     whether a scheme of the user's does the same every time
    images          verdicts on the functions of a kernel image; boundary_files, with the user's boundary functions
    image_learning  which accesses of an image's CPUs others can notice, learnt by searches
    certify         writes certificates
    verdict_data    a verdict as plain data

Layer: above `images` and `exhaustive`, beside `runs`, which it does not know. Tests: tests/verify/, tests/cli/.
"""
