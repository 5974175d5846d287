"""Where the templates and runtime headers lie: beside the package in a checkout, inside an installed one.

The checkout's come first. Python run in a checkout's top folder imports the package from there whatever is installed,
and templates of another version would not fit it.
"""

from importlib.resources import files
from pathlib import Path

import mpcgen
from mpcgen.errors import InternalError


def _find() -> Path:
    beside = Path(mpcgen.__file__).parents[1] / "templates"
    if (beside / "runtime" / "mpcgen_lane.h").is_file():
        return beside
    try:
        return Path(str(files("mpcgen.templates")))
    except ModuleNotFoundError as error:
        raise InternalError(f"{Path(mpcgen.__file__).parent} was installed without its templates") from error


TEMPLATE_FOLDER = _find()
