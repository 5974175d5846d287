"""Gradients of a controller beside two witnesses: CasADi's KKT system, and differences of its solutions."""

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp
import torch

import mpcgen
from mpcgen.baseline import Baseline, Functions, KktGradient, finite_difference_gradient, kkt_gradient
from mpcgen.baseline.compare import gradient_differences
from mpcgen.problem.spec import ParameterSpec, Spec

Values = dict[str, np.ndarray]

# Central differences mean something only where no bound becomes active or inactive between the two solutions.
MARGIN = 1e-2
DIFFERENCED_BOUNDS = 4


@dataclasses.dataclass(frozen=True)
class GradientComparison:
    """Largest relative differences by name ("x0", parameters, "lower", "upper").

    ``casadi``: of ``compared`` solutions, all of those that are differentiable; ``differences``: of
    ``differenced`` solutions, the first of these with a complementarity margin of `MARGIN`, if they exist.
    """

    compared: int
    active_share: float
    casadi: dict[str, float]
    differenced: int
    differences: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Point:
    """One solved problem, its loss's cotangents (x, u, cost) and its gradients by name."""

    x0: np.ndarray
    x: np.ndarray
    u: np.ndarray
    parameters: Values
    cotangents: tuple[np.ndarray, np.ndarray, float]
    own: Values


def with_bound_parameters(spec: Spec) -> Spec:
    """Return the same problem with its bounds as parameters "lower" and "upper", per stage (N, m)."""
    m = len(spec.controls)
    added = []
    for name in ("lower", "upper"):
        symbols = tuple(sp.Symbol(f"{name}_{i}", real=True) for i in range(m))
        added.append(ParameterSpec(name, (m,), symbols, None, True, in_terminal=False, only_bounds=True))
    bounds = zip(*(parameter.symbols for parameter in added), strict=True)
    controls = tuple(
        dataclasses.replace(control, lower=low, upper=high)
        for control, (low, high) in zip(spec.controls, bounds, strict=True)
    )
    parameters = (*spec.parameters, *added)
    return dataclasses.replace(spec, name=f"{spec.name}_bounded", controls=controls, parameters=parameters)


def compare_gradients(
    spec: Spec,
    module: ModuleType,
    case: str,
    count: int,
    differenced: int,
    *,
    tol: float = 1e-8,
    seed: int = 1,
) -> GradientComparison:
    """Compare the gradients of a random linear loss in x, u and the cost at ``count`` solutions to ``tol``.

    case: "free", without bounds, or "active", with bounds at half of the largest free control.
    """
    bounded = with_bound_parameters(spec)
    points = _points(bounded, module.initial_states(count, seed=seed), case, tol, seed)
    functions = Functions(bounded)
    casadi: dict[str, list[float]] = {}
    differences: dict[str, list[float]] = {}
    active, compared, done = [], 0, 0
    for point in points:
        witness = _witness(functions, point)
        if witness is None:
            continue
        compared += 1
        active.append(float((witness.active != 0).mean()))
        _collect(casadi, gradient_differences(point.own, witness))
        if done < differenced and witness.complementarity > MARGIN:
            done += 1
            _collect(differences, _against_differences(bounded, point, witness))
    share = float(np.mean(active)) if active else float("nan")
    return GradientComparison(compared, share, _largest(casadi), done, _largest(differences))


def _collect(store: dict[str, list[float]], values: dict[str, float]) -> None:
    for name, value in values.items():
        store.setdefault(name, []).append(value)


def _largest(store: dict[str, list[float]]) -> dict[str, float]:
    return {name: max(values) for name, values in store.items()}


def _points(spec: Spec, x0: torch.Tensor, case: str, tol: float, seed: int) -> list[_Point]:
    """Solve, differentiate and split into problems; those that did not converge are left out."""
    package = mpcgen.compile(spec)
    mpc = package.MPC(tol=tol, on_unconverged="ignore")
    leaves = _leaves(spec, mpc, x0, case)
    solution = mpc(leaves["x0"], **{name: value for name, value in leaves.items() if name != "x0"})
    generator = torch.Generator().manual_seed(seed)
    outputs = (solution.x, solution.u, solution.cost)
    cotangents = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in outputs]
    torch.autograd.backward(outputs, cotangents)
    values = {name: value.detach().numpy() for name, value in leaves.items()}
    own = {name: value.grad.numpy() for name, value in leaves.items()}
    x, u = solution.x.detach().numpy(), solution.u.detach().numpy()
    r_x, r_u, r_cost = (part.numpy() for part in cotangents)
    return [
        _Point(
            x0=values["x0"][b],
            x=x[b],
            u=u[b],
            parameters={name: value[b] for name, value in values.items() if name != "x0"},
            cotangents=(r_x[b], r_u[b], float(r_cost[b])),
            own={name: value[b] for name, value in own.items()},
        )
        for b in torch.nonzero(solution.status == 0).flatten().tolist()
    ]


def _leaves(spec: Spec, mpc: Any, x0: torch.Tensor, case: str) -> dict[str, torch.Tensor]:
    """x0 and each parameter with one value per problem, so that each problem has its own gradient."""
    batch, m = len(x0), len(spec.controls)
    infinite = torch.full((batch, spec.horizon, m), torch.inf, dtype=x0.dtype)
    lower, upper = -infinite, infinite
    if case == "active":
        free = mpc(x0, lower=lower, upper=upper).u
        half = 0.5 * free.abs().amax(dim=1, keepdim=True).expand_as(free)
        lower, upper = -half, half
    values = {"x0": x0, "lower": lower, "upper": upper}
    for parameter in spec.parameters:
        if parameter.default is not None:
            default = torch.tensor(parameter.default, dtype=x0.dtype).reshape(parameter.shape)
            values[parameter.name] = default.expand(batch, *parameter.shape)
    return {name: value.clone().requires_grad_() for name, value in values.items()}


def _witness(functions: Functions, point: _Point) -> KktGradient | None:
    """CasADi's gradient, or None where the solution has none: a bound weakly active, or not a minimum."""
    r_x, r_u, r_cost = point.cotangents
    try:
        witness = kkt_gradient(
            functions, point.x, point.u, point.parameters, grad_x=r_x, grad_u=r_u, grad_cost=r_cost
        )
    except np.linalg.LinAlgError:
        return None
    # Below ten residuals, which bounds are active is the residual's choice.
    distinct = witness.complementarity > 10 * witness.residual
    return witness if distinct and witness.second_order else None


def _against_differences(spec: Spec, point: _Point, witness: KktGradient) -> dict[str, float]:
    """Relative differences by name from central differences of IPOPT's solutions."""
    baseline = Baseline(spec, tol=1e-11)
    r_x, r_u, r_cost = point.cotangents
    result = {}
    for name, own in point.own.items():
        entries = list(range(own.size))
        if name in ("lower", "upper"):
            held = np.flatnonzero(witness.active == (-1 if name == "lower" else 1))
            entries = held[:DIFFERENCED_BOUNDS].tolist()
        if not entries:
            continue
        expected = finite_difference_gradient(
            baseline,
            point.x0,
            point.parameters,
            name,
            grad_x=r_x,
            grad_u=r_u,
            grad_cost=r_cost,
            u_init=point.u,
            entries=entries,
        ).value
        error = float(np.linalg.norm(own.ravel()[entries] - expected))
        result[name] = error / max(float(np.linalg.norm(expected)), np.finfo(float).tiny)
    return result
