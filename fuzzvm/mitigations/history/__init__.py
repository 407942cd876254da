"""Schemes that were in trees of a day, and are proposed by nobody: what corpus/history is found under.

They have a name as those that ship do, stand wherever these do, and claim nothing: no matrix runs them unasked.
"""
