"""Sphinx builds the pages of this folder: ``tox -e docs``."""

project = "realizehit"
author = "The realizehit authors"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
