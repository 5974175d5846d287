"""The site: pages in Markdown, the reference from docstrings. `make docs` builds it, offline."""

import re
from typing import Any

project = "mpcgen"
author = "the authors of mpcgen"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx-mathjax-offline"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mpcgen"
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
myst_links_external_new_tab = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "py:obj"
napoleon_use_rtype = False
suppress_warnings = ["config.cache"]

_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")


def _plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let docstrings be plain text: *, | and a trailing _ are themselves outside of code."""
    for number, line in enumerate(lines):
        pieces = _CODE.split(line)
        pieces[::2] = [_MARKUP.sub(r"\\\g<0>", piece) for piece in pieces[::2]]
        lines[number] = "".join(pieces)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain, priority=400)  # before napoleon, at 500
