"""Random specifications against CasADi: `python tests/fuzz_specs.py --count 10000 --compiled 200`.

Each is checked, derived and rendered; values and derivatives of its functions, as they are rendered, are compared with
CasADi's at random points. The first ``--compiled`` of those that pass are compiled and solved, and what CasADi computes
along the solution must agree: cost, KKT residual, and the cost of IPOPT's solution from there. What may happen is a
result, or an error that mpcgen raises on purpose. Anything else is printed with its seed, and the exit status is 1;
``--start SEED --count 1`` repeats it.
"""

import argparse
import math
import re
import signal
import sys
import traceback
import unittest.mock
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from random_specs import random_problem

import mpcgen
from mpcgen.baseline import Baseline, Functions, kkt_residual
from mpcgen.compiler import Compilation
from mpcgen.derivative import substeps
from mpcgen.ir import PYTHON, Backend, evaluate
from mpcgen.problem.continuity import number, value_at
from mpcgen.problem.spec import Spec
from mpcgen.stages.contract import DERIVE, EXPAND, MATRICES, SLOPES

SECONDS = 20
"""Of CPU time that a specification may take to be checked, derived and rendered, or solved."""
LARGEST = 1e12
"""Beyond this a comparison says more about the point than about the functions."""


class HangError(Exception):
    """A specification took more than `SECONDS`."""


class ContradictionError(Exception):
    """CasADi says something else."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `HangError` after `SECONDS` of this process's CPU time."""

    def stop(signum, frame):
        raise HangError(f"more than {SECONDS} s of CPU time")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


# ---- functions against CasADi's ----


def _leaving_nan_out(extreme: Callable[[float, float], float]) -> Callable[[float, float], float]:
    return lambda a, b: b if math.isnan(a) else a if math.isnan(b) else extreme(a, b)


LIKE_CASADI = Backend(
    "python", {**PYTHON.table, "min": _leaving_nan_out(min), "max": _leaving_nan_out(max)}, PYTHON.constants
)
"""CasADi's extremes leave a NaN out, where mpcgen's are NaN."""


def own_values(compilation: Compilation, x, u, theta, costate) -> dict[str, np.ndarray]:
    """Outputs of the stage functions as they are rendered, by CasADi's names."""
    model = compilation.graph
    functions = {function.name: function for function in compilation.passes.functions}
    known = dict(
        zip((*model.states, *model.controls, *model.parameters), map(float, (*x, *u, *theta)), strict=True)
    )
    if "prepare_parameters" in functions:
        prepared = functions["prepare_parameters"].outputs[0].expressions
        numbers = evaluate(prepared, known, LIKE_CASADI)
        known |= {model.graph.symbol(f"fixed.{i}"): value for i, value in enumerate(numbers)}

    def outputs(name: str, groups: dict[str, list[float]]) -> dict[str, list[float]]:
        given = dict(known)
        for group in functions[name].inputs:
            if group.name in groups:
                given |= dict(zip(group.symbols, groups[group.name], strict=True))
        return {out.name: evaluate(out.expressions, given, LIKE_CASADI) for out in functions[name].outputs}

    dynamics = outputs("stage_dynamics", {})
    following = dynamics["x_next"]
    known |= {
        model.graph.symbol(f"next.{state.value}"): value
        for state, value in zip(model.states, following, strict=True)
    }
    n, m = len(model.states), len(model.controls)
    kind = "exact" if any(name.endswith("_exact") for name in functions) else "gauss_newton"
    zeros = {"V": [0.0] * (n * (n + 1) // 2), "offset": [0.0] * n}
    expanded: dict[str, list[float]] = {}
    for name in (EXPAND[kind], DERIVE[kind], MATRICES, SLOPES):  # the first or second, or both of the others
        if name in functions:
            expanded |= outputs(name, {"costate": list(costate), "weight": [1.0], **zeros})
    hessian = np.zeros((n + m, n + m))
    hessian[np.tril_indices(n + m)] = expanded.get("Q") or expanded["H"]
    end = outputs("terminal_expand", {})
    end_hessian = np.zeros((n, n))
    end_hessian[np.tril_indices(n)] = end["hessian"]
    return {
        "f": np.array(following),
        "stage_cost": np.array(dynamics["cost"]),
        "terminal_cost": np.array(outputs("terminal_cost", {})["cost"]),
        "lagrangian gradient": np.array([*expanded["costate"], *expanded["gradient_u"]]),
        "lagrangian hessian": hessian,
        "terminal gradient": np.array(end["costate"]),
        "terminal hessian": end_hessian,
    }


def written_out(compilation: Compilation) -> Compilation:
    """The same without a loop over substeps, whose composition is C's: `test_substeps.py` compares that."""
    if compilation.derived.loop is None:
        return compilation
    with unittest.mock.patch.object(substeps, "LOOPED_FROM", math.inf):
        unrolled = Compilation(compilation.spec)
        assert unrolled.derived.loop is None
        assert unrolled.passes.functions  # derived while the limit is lifted
    return unrolled


def casadi_values(functions: Functions, x, u, theta, costate) -> dict[str, np.ndarray]:
    """The same by CasADi."""

    def array(value) -> np.ndarray:
        return np.array(value.full(), dtype=float)

    gradient = array(functions.stage_cost_D_tau(x, u, theta)).ravel()
    return {
        "f": array(functions.f(x, u, theta)).ravel(),
        "stage_cost": array(functions.stage_cost(x, u, theta)).ravel(),
        "terminal_cost": array(functions.terminal_cost(x, theta)).ravel(),
        "lagrangian gradient": gradient + array(functions.f_D_tau(x, u, theta)).T @ costate,
        "lagrangian hessian": np.tril(array(functions.lagrangian_hessian(x, u, theta, costate))),
        "terminal gradient": array(functions.terminal_cost_D_x(x, theta)).ravel(),
        "terminal hessian": np.tril(array(functions.terminal_cost_hessian(x, theta))),
    }


def _is_real(spec: Spec, x, u, theta) -> bool:
    """Whether next state and costs are real numbers, with all that they are computed from."""
    symbols = [
        *spec.states,
        *(c.symbol for c in spec.controls),
        *(s for p in spec.parameters for s in p.symbols),
    ]
    point = {symbol: number(value) for symbol, value in zip(symbols, [*x, *u, *theta], strict=True)}
    expressions = (*spec.dynamics.expressions, spec.stage_cost, spec.terminal_cost)
    return all(value_at(expression, dict(point)) is not None for expression in expressions)


def compare_functions(compilation: Compilation, functions: Functions, rng: np.random.Generator) -> None:
    """Raise `ContradictionError` for a value that is CasADi's no more, beyond what the point's condition explains."""
    sizes = functions.n, functions.m, functions.n_theta, functions.n
    for draw in (rng.normal, rng.normal, lambda size: rng.uniform(0.2, 1.5, size)):
        point = [draw(size=size) for size in sizes]
        moved = [entry * (1 + 1e-12 * rng.normal(size=entry.shape)) for entry in point]
        own = own_values(compilation, *point)
        other, nearby = casadi_values(functions, *point), casadi_values(functions, *moved)
        numbers = np.concatenate([value.ravel() for value in (*other.values(), *nearby.values())])
        if not (np.abs(numbers) < LARGEST).all():
            continue  # outside a function's domain, or nearly
        if any(np.isnan(value).any() for value in own.values()) and not _is_real(
            compilation.spec, *point[:3]
        ):
            continue  # CasADi has left out what is not, as in sqrt(v)*(1/sqrt(v)) at v < 0
        for name, value in other.items():
            allowed = 1e-8 * (1 + np.max(np.abs(value))) + 1e3 * np.abs(nearby[name] - value)
            if not (np.abs(own[name] - value) <= allowed).all():
                raise ContradictionError(f"{name} at {point}: {own[name].tolist()}, CasADi {value.tolist()}")


# ---- solutions against CasADi's ----


def compare_solutions(spec: Spec, rng: np.random.Generator) -> str:
    """Compile and solve from three starts; return what became of it. Raises `ContradictionError`."""
    module = mpcgen.compile(spec)
    parameters = {
        p.name: rng.normal(size=(*([p.stages(spec.horizon)] if p.per_stage else []), *p.shape))
        for p in spec.parameters
        if p.default is None
    }
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    x0 = rng.normal(size=(3, len(spec.states)))
    mpc = module.MPC(on_unconverged="ignore")
    solution = mpc(torch.tensor(x0), horizon=spec.horizon, **tensors)
    baseline = Baseline(spec, tol=1e-10)
    solved = 0
    for i in np.flatnonzero((solution.status == 0).numpy()):
        x, u, cost = solution.x[i].numpy(), solution.u[i].numpy(), float(solution.cost[i])
        if np.abs(x).max() > 1e6 or np.abs(u).max() > 1e6 or abs(cost) > LARGEST:
            continue
        residual = kkt_residual(baseline.functions, x, u, parameters)
        if math.isnan(residual):
            continue  # CasADi has no derivative there, as of hypot(x, y) at the origin
        if not residual <= 1e-6 * (1 + np.abs(u).max()):
            raise ContradictionError(
                f"x0 = {x0[i].tolist()}: converged, but CasADi's KKT residual is {residual}"
            )
        other = baseline.solve(x0[i], parameters, u_init=u)
        scale = 1 + abs(cost)
        if other.success and other.cost < cost - 1e-6 * scale:
            near = np.abs(other.u - u).max() < 1e-2
            if near:
                raise ContradictionError(
                    f"x0 = {x0[i].tolist()}: cost {cost}, IPOPT's from there {other.cost}"
                )
        solved += 1
    return f"compiled, {solved} of 3 solved"


# ---- the run ----


def examine(seed: int, compiled: bool) -> str:
    """Return what became of a specification; raises what should not happen."""
    rng = np.random.default_rng(seed)
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem = random_problem(seed)
    except mpcgen.MpcgenError as error:
        return type(error).__name__
    except Exception:
        return "sympy cannot write it"
    try:
        with limited():
            spec = problem.spec()
            compilation = Compilation(spec)
            text = compilation.rendered
        re.sub(r"/\*.*?\*/", "", text.header + text.source, flags=re.DOTALL).encode("ascii")
    except mpcgen.InternalError:
        raise
    except mpcgen.MpcgenError as error:
        return type(error).__name__
    with limited(), np.errstate(all="ignore"):
        compare_functions(written_out(compilation), Functions(spec), rng)
    return compare_solutions(spec, rng) if compiled else "rendered"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--compiled", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    fates: Counter[str] = Counter()
    failures = compiled = 0
    for seed in range(options.start, options.start + options.count):
        try:
            fate = examine(seed, compiled < options.compiled)
        except Exception as error:
            failures += 1
            fate = f"FAILED: {type(error).__name__}"
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            if not isinstance(error, HangError | ContradictionError):
                traceback.print_exc()
        compiled += fate.startswith("compiled")
        fates[fate] += 1
    for fate, count in fates.most_common():
        print(f"{count:6}  {fate}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
