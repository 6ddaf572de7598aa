"""Sphinx configuration of the documentation: `make docs` builds it, with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "_ext"))

from generated import commands_page, configs_page  # noqa: E402

from unet_bundle import __version__  # noqa: E402

project = "unet-bundle"
author = "the unet-bundle authors"
release = version = __version__
copyright = author  # noqa: A001 - Sphinx's name

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "docstrings"]
exclude_patterns = ["_ext"]
source_suffix = {".md": "markdown"}

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
highlight_language = "none"  # blocks without a language are command lines, YAML or text

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
default_role = "code"  # docstrings name code in single backticks
napoleon_google_docstring = True
napoleon_numpy_docstring = False

nitpicky = True
# Classes of other projects, whose own pages are not at hand when this is built without a network; and those of ours
# that are no public names.
OTHERS = "torch|monai|ignite|numpy|np|npt|nib|nibabel|pydicom|collections|argparse|pathlib|types|typing|contextlib|os"
nitpick_ignore_regex = [
    (r"py:.*", rf"({OTHERS})\..*"),
    (r"py:class", r"nn\.Module|Evaluator|Path|Optimizer|_Loss|Compose|Array|Regions|CaseT"),
    (r"py:class", r"unet_bundle\.\w+\.[a-z_.]+\.\w+"),
    (r"py:exc", r"DivergedError"),
]

html_theme = "furo"
html_title = f"unet-bundle {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_copy_source = False

GENERATED = {"<!-- generated: commands -->": commands_page, "<!-- generated: configs -->": configs_page}


def _fill_in(_app: Any, _docname: str, source: list[str]) -> None:
    for mark, page in GENERATED.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, page())


def setup(app: Any) -> dict[str, bool]:
    """Connect what fills in the generated parts."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
