"""What happened to a batch of problems, in words and in a picture."""

from mpcgen.diagnosis.diagnose import diagnose
from mpcgen.diagnosis.plot import PlotUnavailableError, plot
from mpcgen.diagnosis.report import Report

__all__ = ["PlotUnavailableError", "Report", "diagnose", "plot"]
