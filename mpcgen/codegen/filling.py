"""Filling templates: contexts made of names, integers and printed expressions."""

import functools
from collections.abc import Mapping

import jinja2
import jinja2.meta

from mpcgen.codegen.template_folder import TEMPLATE_FOLDER
from mpcgen.errors import InternalError


@functools.lru_cache(maxsize=16)
def _template(text: str) -> tuple[jinja2.Template, frozenset[str]]:
    """A template of this text, and the variables that it reads."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    parsed = environment.parse(text)
    wanted = jinja2.meta.find_undeclared_variables(parsed)
    return environment.from_string(parsed), frozenset(wanted)


def fill(template: str, context: Mapping[str, object]) -> str:
    """Render a template; a variable that it lacks or that it does not use is our mistake."""
    found, wanted = _template((TEMPLATE_FOLDER / template).read_text(encoding="utf-8"))
    if wanted != set(context):
        raise InternalError(
            f"template {template}: missing {sorted(wanted - set(context))}, unused {sorted(set(context) - wanted)}"
        )
    return found.render(context)
