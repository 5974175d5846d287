"""How long models take from the specification to the text: `python tests/derivation_times.py`, about two minutes.

Seconds of CPU for derivation and for the rest of the way to the text, and operations of the next state and of a stage
with the exact Hessian. Last the motion of links on a cart: operations of accelerations, with their Jacobian, with
the second derivatives too.
"""

import sys
import time
from pathlib import Path

from graph_models import arm, network, random_model, van_der_pol
from mechanisms import operations_of_links

import mpcgen
from mpcgen.codegen.c_function import reserved_in
from mpcgen.codegen.render import render
from mpcgen.derivative.kernels import derive
from mpcgen.ir import flops
from mpcgen.ir.schedule import Schedules, schedule
from mpcgen.passes.economy import economise
from mpcgen.passes.naming import naming_hints
from mpcgen.problem.lowering import lower_spec
from mpcgen.stages import contract

EXAMPLES = Path(__file__).parent.parent / "examples"
RANDOM = 30


def text(model):
    """Return the kernels, and seconds of CPU for them and for the text made of them."""
    start = time.process_time()
    kernels = derive(model)
    derived = time.process_time()
    economy = economise(kernels, naming_hints(kernels))
    table = contract(model.constrained)
    schedules = tuple(schedule(f, economy.names, reserved_in(table[f.name])) for f in economy.functions)
    render(kernels, economy, Schedules(schedules))
    return kernels, derived - start, time.process_time() - derived


def row(name, model):
    """One line of the table; returns the seconds."""
    kernels, deriving, rendering = text(model)
    exact = max((f for f in kernels.functions if f.name.startswith("stage_")), key=_work)
    print(
        f"{name:<16} {flops(model.next_state):>6} {_work(exact):>7}  {deriving:6.2f} {rendering:6.2f}",
        flush=True,
    )
    return deriving + rendering


def _work(function):
    return flops(function.expressions()) if "expand" in function.name or "derivatives" in function.name else 0


def main(examples=("pendulum", "cartpole", "car", "lqr", "quadrotor", "chain")):
    """Print the table."""
    print(f"{'':<16} {'f':>6} {'stage':>7}  {'derive':>6} {'text':>6}")
    for name in examples:
        row(name, lower_spec(mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()))
    row("arm", arm())
    for width in (16, 32):
        row(f"network {width}", network(width))
    row("van der Pol", van_der_pol())
    longest = max(row(f"random {seed}", random_model(seed)) for seed in range(RANDOM))
    print(f"longest of {RANDOM} random ones: {longest:.2f} s")
    for count in (1, 2, 3, 4):
        print(
            f"{count} links on a cart: f {{}}, with F {{}}, with d2f {{}}".format(*operations_of_links(count))
        )


if __name__ == "__main__":
    main(*([sys.argv[1:]] if sys.argv[1:] else []))
