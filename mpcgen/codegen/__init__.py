"""Code generation: C expressions and functions, templates, and what `mpcgen inspect` prints."""

from mpcgen.codegen.rendered import Rendered

__all__ = ["Rendered"]
