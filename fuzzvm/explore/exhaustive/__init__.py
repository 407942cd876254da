"""Every behaviour of a system: exact search, its reductions, and the shortest run that goes wrong."""
