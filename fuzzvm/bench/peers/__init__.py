"""The flat model as programs for peers: files that are run by them, not imported."""
