"""From a patch series to evidence: what it touches, and what is safe before it and after it."""
