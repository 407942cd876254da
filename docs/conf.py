"""How the documentation is built: `tox -e docs`, or `sphinx-build -W docs OUT`."""

from __future__ import annotations

import fuzzvm

project = "fuzzvm"
copyright = "the fuzzvm developers"  # noqa: A001 - Sphinx's own name for it
release = fuzzvm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["decisions/README.md"]
html_theme = "furo"
html_title = f"fuzzvm {release}"
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
