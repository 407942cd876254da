"""What people read, as HTML pages that need nothing but themselves: no network, no other file.

Tests: tests/report/html/.
"""
