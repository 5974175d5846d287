"""Controllers out of Python: folders of C99 for microcontrollers, and CMake packages for C++."""

from mpcgen.export.library import export_library
from mpcgen.export.writing import Exported, export

__all__ = ["Exported", "export", "export_library"]
