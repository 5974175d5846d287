"""`mpcgen bench`: the generated solvers timed over problems, batches and precisions, beside their peers.

How to add a problem: `problems.NAMES` and `problems._load`. A peer: an adapter in `peers.PEERS`. A target:
`targets.judge`. What an operation is: `flops`.
"""

from examples.bench.cells import Selection, select
from examples.bench.command import main_bench
from examples.bench.results import Results
from examples.bench.run import Parts, run

__all__ = ["Parts", "Results", "Selection", "main_bench", "run", "select"]
