"""The contract between the derivation, the generated text and the runtime headers: one table of stage functions."""

from mpcgen.stages.contract import contract
from mpcgen.stages.table import Slot, StageFunction

__all__ = ["Slot", "StageFunction", "contract"]
