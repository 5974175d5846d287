"""`mpcgen bench`: the generated solvers timed over problems, batches and precisions, beside their peers.

How to add a problem: `problems.NAMES` and `problems._load`. A peer: an adapter in `peers.PEERS`. A target:
`targets.judge`. What an operation is: `flops`.
"""

from mpcgen.bench.cells import Selection, select
from mpcgen.bench.command import main_bench
from mpcgen.bench.results import Results
from mpcgen.bench.run import Parts, run

__all__ = ["Parts", "Results", "Selection", "main_bench", "run", "select"]
