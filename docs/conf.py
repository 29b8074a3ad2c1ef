"""Configuration of the documentation: Sphinx, Markdown by MyST, API pages from the docstrings."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

project = "mbrl-control"
author = "The mbrl-control developers"
copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3
default_role = "code"  # `name` in a docstring is code, as in Markdown

# What a package exports, in __all__, is what its page documents.
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "groupwise"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of dataclasses are described in the class, once
napoleon_custom_sections = [("Class attributes", "Attributes")]
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"{project} {release}"
