"""Settings of the documentation site; CONTRIBUTING.md has the command that builds it.

The build needs no network: the theme has its own fonts and scripts, and no inventory of another site is read.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import generated  # noqa: E402

from dip_jax._version import __version__  # noqa: E402

project = "dip_jax"
author = "The dip_jax authors"
copyright = "2026, the dip_jax authors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "package.md"]  # the latter is the page on the package index
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# Docstrings are written in Markdown's way: a name in single backticks is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
autodoc_default_options = {"exclude-members": "__new__, __init__"}
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "dip_jax"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}

# `sphinx-build -b linkcheck` requests every external address. These pages refuse programs.
linkcheck_ignore = [r"http://metadata\.google\.internal.*", r"https://doi\.org/.*"]
linkcheck_timeout = 20


def setup(app) -> dict:
    """Registers the tables that are made from the source, see `generated`."""
    app.connect("source-read", generated.insert)
    app.connect("autodoc-process-docstring", generated.adapt_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
