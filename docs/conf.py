"""The site: Sphinx, MyST and furo. `make docs` builds it without a network; every warning is an error."""

from __future__ import annotations

import os
import re
import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

# for the kernel that runs the tutorials too
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
os.environ["PYTHONWARNINGS"] = "ignore"  # of other packages, in the outputs of tutorials
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `!imputome` in tutorials
os.environ["COLUMNS"] = "110"  # of their lines
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
warnings.filterwarnings("ignore", category=DeprecationWarning)

project = "imputome"
author = "The imputome developers"
copyright = author
version = release = installed_version("imputome")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}  # autosummary writes the first

# -- pages in Markdown, which GitHub shows too
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# -- tutorials run, each in an empty folder, when their page is built; an error in one fails the build
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True
nb_execution_show_tb = True

# -- reference
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc has them in words
autodoc_member_order = "bysource"
add_module_names = False
default_role = "py:obj"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# -- look
html_theme = "furo"
html_title = "imputome"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def one_title(app: Any, name: str, source: list[str]) -> None:
    """Below its title, each heading of a study's page goes down a level: the navigation shows pages, not parts."""
    if name.startswith("studies/") and name != "studies/file_format":
        title, rest = source[0].split("\n", 1)
        source[0] = title + "\n" + re.sub("^#", "##", rest, flags=re.MULTILINE)


def setup(app: Any) -> None:
    app.connect("source-read", one_title)
