"""The controller as a torch module."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from mpcgen.autograd import copying, functions, library
from mpcgen.autograd.action_value import broadcast_first, solve_from, tell_of_failures
from mpcgen.autograd.closed_loop import ClosedLoop, make_loop, raised_to
from mpcgen.autograd.evaluation import ProblemFunctions
from mpcgen.autograd.examination import record
from mpcgen.autograd.origin import origin_of
from mpcgen.autograd.restarts import Tries, try_starts
from mpcgen.autograd.solution import Solution, whole
from mpcgen.calls import learnable
from mpcgen.calls.arguments import Call, Start, explained, make_call
from mpcgen.calls.devices import device_of
from mpcgen.calls.direct import Direct
from mpcgen.calls.options import Options, checked_count, no_such_option
from mpcgen.calls.warm_start import make_start
from mpcgen.calls.watching import is_traced
from mpcgen.errors import LayoutError, ParameterError, UnconvergedError
from mpcgen.runtime.outputs import Outputs


def _is_computed() -> bool:
    """Whether there are statuses to look at, rather than a graph in the making."""
    return not torch.compiler.is_compiling() and not is_traced()


def _led(outputs: tuple[Tensor, ...], leading: torch.Size) -> tuple[Tensor, ...]:
    """Outputs of a flat batch with a call's leading dimensions."""
    if len(leading) == 1:
        return tuple(outputs)
    return tuple(out.reshape(leading + out.shape[1:]) for out in outputs)


class MPC(ProblemFunctions):
    """A differentiable model predictive controller; generated packages subclass it.

    method: "ddp" (box-DDP), "interior_point" (primal-dual, in multiple shooting), or "auto". Where only controls are
    bounded, "auto" begins with box-DDP, and leaves to the interior point, from the same start, the problems in which
    refused steps and poor models prevail, whose model is next to linear after 15 passes, or which diverge; what that
    does not solve either, box-DDP goes on with, as with all problems whose dynamics are linear. What the interior point
    solves, box-DDP polishes in some two iterations, so that controls lie on their bounds and states are a rollout's.
    Iterations are those of both. With ``hessian="gauss_newton"`` or ``smooth="solve"`` it is box-DDP, with other
    constraints the interior point, which alone knows them. That ends where its errors are at most ``tol``, with the
    cost in units that make the first trajectory's 100 and controls in units of their range; ``sol.residual`` is the
    largest of them, and ``sol.iterations`` counts Newton steps. It has the exact Hessian only.

    tol: KKT residual at which a problem counts as solved, max |u - clip(u - dL/du, lower, upper)|, in the units of u
    and dL/du; default 1e-8 in float64, 1e-4 in float32. As these may be any, the next step must also promise to lower
    the cost by less than tol^1.5 of it: the force of a car, in newtons, is found although dL/du is tiny, and one in
    micronewtons is CONVERGED where rounding leaves no better step, with the residual that it has.
    max_iterations: passes of one rollout and one backward sweep.
    hessian: of the solver, "exact" (of the Lagrangian, near the solution) or "gauss_newton" (iLQR); the same where the
    dynamics are linear. gradient: "exact", or "gauss_newton" for the paper's Module 2, which leaves the curvature of
    the dynamics out of the implicit differentiation and is in general not the derivative of the solution; or
    "unrolled", which differentiates ``unroll`` iterations of the solver, its last, converged or not (the paper's
    section 4.3; reverse mode only, `mpcgen.reference.unrolled` says exactly what it is). It needs ``problem``, the
    `mpcgen.Problem` or its Spec that the controller was made from, and computes in plain PyTorch, slowly.
    on_unconverged: "warn", "raise" or "ignore". unconverged_gradient: of a problem whose status is not zero:
    "zero"; "keep", the formula evaluated where the solver stopped; or "nan". The cost's own gradient needs no
    second-order condition: but for "nan" it is exact where the status is NOT_A_MINIMUM, too. threads: default
    `torch.get_num_threads()`. history: keep cost and residual of every pass in ``sol.history``, at the price of
    solving twice.

    restarts: solve each problem from so many random controls besides, and keep the best by status, violation and cost;
    what is returned is that solution itself, never worse than the given start's, and gradients are its own.
    ``sol.restarts`` says how many starts converged, which one won, how many minima there are, and how many iterations
    all starts took; ``sol.iterations`` are the winner's. ``seed`` chooses the controls, which do not depend on a
    problem's place in the batch. They are solved as one batch, ``restarts`` times as large; the first call needs the
    kernels' derivatives, which have the bounds. With ``gradient="unrolled"`` the winner is solved anew from its start,
    whose passes are differentiated.

    smoothing: mu > 0 replaces the bounds by their log-barrier, so that gradients do not jump when the active set
    changes (Frey et al. 2025). smooth: where. "differential": in the gradients only; the solution stays that of the
    hard bounds. "solve": in the solver too, which then minimises the cost - mu sum(log(u - lower) + log(upper - u))
    over the finite bounds; differentials are exactly those of that solution, with stiffness mu / slack^2 at each
    bound. There ``sol.cost`` is the cost without the barrier, and its gradient that of this number;
    ``sol.residual`` is max |dL/du| of the barrier problem, over 1 + mu / slack summed over the control's bounds, as
    rounding of u near a bound leaves dL/du that uncertain; bounds without room between them end as INVALID_INPUT.

    learn: names of problem parameters that become torch Parameters of the module, under their names; or a mapping
    from name to constraint: None; "positive" (exp); ("interval", lower, upper) (a scaled sigmoid); or any
    parametrization module. initial: by name, the values to start from, where not the default, shape
    (..., [stages,] *shape). They start as float64 (tensors keep their dtype), and as any module's they have to have
    x0's dtype: `.to(torch.float32)`. A per-stage parameter starts from its default with one value for each stage of
    the spec's horizon. What a call passes by keyword replaces the learned value in that call.

    Pickling and torch.save keep where the class's package lies (by import, or the cache's folder), not its code.
    Under `torch.autocast` the solver stays in float32 (float64 if x0 is): lower precision is converted to it.

    Raises ParameterError for an option that does not exist or is outside its choices, for a name in ``learn`` that is
    no parameter, has no value to start from or one outside its constraint; DtypeError for one that is neither float32
    nor float64.
    """

    def __init__(
        self,
        *,
        tol: float | None = None,
        max_iterations: int = 200,
        hessian: str = "exact",
        gradient: str = "exact",
        on_unconverged: str = "warn",
        unconverged_gradient: str = "zero",
        smoothing: float = 0.0,
        smooth: str = "differential",
        threads: int | None = None,
        history: bool = False,
        method: str = "auto",
        restarts: int = 0,
        seed: int = 0,
        unroll: int = 0,
        problem: Any = None,
        learn: learnable.Learn = (),
        initial: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ParameterError(no_such_option(next(iter(unknown)), MPC))
        if not isinstance(history, bool):
            raise ParameterError(f"history={history!r}; True or False is expected")
        self.history = history
        self.restarts, self.seed = checked_count("restarts", restarts, 0), checked_count("seed", seed, 0)
        self.key = library.register(self.controller)
        if self.controller.constraints:
            if method == "ddp":
                raise ParameterError(
                    f"method='ddp' knows bounds of controls alone, and {self.controller.name} has constraints; leave "
                    "it out, or choose method='interior_point'"
                )
            method = "interior_point"
        self.options = Options(
            tol,
            max_iterations,
            hessian,
            gradient,
            on_unconverged,
            unconverged_gradient,
            smoothing,
            threads,
            smooth,
            method,
        )
        self.options_text = self.options.text
        quiet = replace(self.options, quiet=True)
        self.quiet_texts = quiet.text, replace(quiet, max_iterations=0).text
        self.quiet = quiet
        self.direct, self.quiet_direct = Direct(), Direct()
        self.unrolled = None
        if gradient == "unrolled" or unroll or problem is not None:
            from mpcgen.reference.unrolled import Unrolled  # brings sympy, which nothing else here needs

            self.unrolled = Unrolled.of(self.controller, self.options, unroll, problem)
        self.learned: tuple[str, ...] = ()
        self.learned = learnable.register(self, self.controller, learn, initial or {})

    def forward(
        self,
        x0: Tensor = None,  # type: ignore[assignment]  # so that its absence is our error, too
        *positional: Any,
        u0: Tensor | None = None,
        u_init: Tensor | None = None,
        x_init: Tensor | None = None,
        warm_start: Solution | None = None,
        shift: int | None = None,
        horizon: int | None = None,
        **parameters: Any,
    ) -> Solution:
        """Solve the problems that start at ``x0`` (..., n), a float32 or float64 tensor.

        u0: (..., m), the first control where it is given: ``cost`` is then the Q-value of x0 and u0, differentiable by
        both. A problem whose u0 is outside its bounds is INVALID_INPUT, one whose u0 breaks a hard constraint
        INFEASIBLE; soft constraints that it decides are refused. ``gains`` at it are zero, as are the multipliers.
        u_init: (..., N, m) controls to start from, default zeros; clipped to the bounds. x_init: (..., N+1, n) states
        to start from, default the rollout of u_init; x0 takes the place of the first, and they need not obey the
        dynamics: the interior point begins there, with method="auto" too. Box-DDP, which always rolls out, refuses
        them. warm_start: a solution of this controller, of nearly the same problem, whose leading dimensions
        broadcast; moved forward by ``shift`` stages (default 1), the last ones repeated. Box-DDP takes its controls,
        the interior point its states, costates and multipliers too, which leave it a handful of iterations; where
        they lead nowhere, and where a problem had no solution, it begins as without. No gradient flows through any of
        these. horizon: N, default that of what the solver starts from, else the spec's. parameters: by name, of shape
        (..., [stages,] *shape); omitted ones take their learned values, else their defaults. A per-stage one of just
        its ``shape`` has that value at every stage. Leading dimensions broadcast.

        Raises ShapeError, DtypeError, DeviceError, LayoutError, ParameterError before anything is computed, and,
        if ``on_unconverged="raise"``, UnconvergedError, whose ``solution`` has what was found. Warns with
        `mpcgen.UnconvergedWarning`.
        """
        if positional:
            raise ParameterError(
                f"{self.controller.name}: {len(positional)} more than x0 given by position; pass what it is by name, "
                f"as in mpc(x0, u_init=u) or mpc(x0, {self._example()}=...)"
            )
        if self.learned:
            parameters = learnable.with_learned(self, self.controller, self.learned, parameters, x0)
        if learnable.is_autocast(x0):
            x0, u_init, x_init, parameters = learnable.leave_autocast(x0, u_init, x_init, parameters)
        start = make_start(self.controller, self.options, u_init, x_init, warm_start, shift)
        if u0 is not None:
            with explained(self.controller, {"x0": x0, "u0": u0, **parameters}):
                return self._with_first_control(x0, u0, start, horizon, parameters)
        if torch.compiler.is_compiling():
            return self._checked(x0, start, horizon, parameters)
        try:
            return self._solved(x0, start, horizon, parameters)
        except UnconvergedError as error:
            if not is_traced():
                call = make_call(self.controller, x0, start, horizon, parameters)
                error.solution = whole(
                    error.solution, call, origin_of(self.key, self.options_text, call.parameters)
                )
            raise

    def _solved(self, x0: Any, start: Start, horizon: Any, parameters: Mapping[str, Any]) -> Solution:
        """Solve a call that torch.compile does not follow."""
        if self.unrolled is None and not self.history and not self.restarts:
            found = self.direct.find(self.controller, self.options, x0, start, horizon, parameters)
            if found is not None:
                known, every = found
                names = (self.key, self.options_text)
                # a tensor without memory, of which the long way knows more
                with contextlib.suppress(LayoutError):
                    outputs = functions.solve_directly(known, *names, x0, start, every)
                    return Solution.fresh(outputs, origin_of(*names, every, known.solver.shapes))
        guesses = dict(zip(start.names, start, strict=True))
        with explained(self.controller, {"x0": x0, **guesses, **parameters}):
            return self._checked(x0, start, horizon, parameters)

    def _with_first_control(
        self, x0: Tensor, u0: Tensor, start: Start, horizon: Any, parameters: Mapping[str, Any]
    ) -> Solution:
        """The solution whose first control is ``u0``, which cannot be examined."""
        for name in ("restarts", "history"):
            if getattr(self, name):
                raise ParameterError(f"{self.controller.name}: u0= is for controllers without {name}=")
        x0 = broadcast_first(self.controller, x0, u0)
        call = make_call(self.controller, x0, start, horizon, parameters)
        first = u0.expand(*call.batch_shape, u0.shape[-1]).reshape(len(call.x0), u0.shape[-1])
        found = solve_from(self.key, self.controller, self.options, call, first, self._flat_quietly)
        outputs = _led(found, call.batch_shape)
        if _is_computed():
            tell_of_failures(self.controller, self.options, call, first, outputs)
        return Solution.of(outputs, None)

    def _flat_quietly(self, call: Call) -> tuple[Tensor, ...]:
        """Outputs of a flat call, of whose failures nobody is told."""
        if self.unrolled is not None:
            return self.unrolled.solve(self.controller, self.quiet, call)
        return self._flat(self.quiet_texts[0], call)

    def closed_loop(
        self,
        x0: Tensor,
        steps: int = 50,
        *,
        plant: Any = None,
        plant_parameters: Mapping[str, Any] | None = None,
        disturbance: Tensor | None = None,
        u_init: Tensor | None = None,
        horizon: int | None = None,
        **parameters: Any,
    ) -> ClosedLoop:
        """Control a plant for so many steps from ``x0`` (..., n): solve, apply the first control, move the plant.

        plant: None, for the controller's own model and parameters; a generated controller, for its model with
        ``plant_parameters`` (this one may be it, and then has other parameters as a plant); or a function of
        x (..., n) and u (..., m) that returns the next state, in torch.
        disturbance: (..., steps, n), added to the state after each step. u_init, horizon, parameters: as of a single
        call; where a parameter is `mpcgen.PerStep(values)`, step t takes ``values[t]``, and so do plant_parameters.
        Each step starts from the plan before, moved on by a stage, its last row repeated; the plant's stage, and the
        stage that costs are counted at, are the first of parameters with an axis of stages.

        Returns states (..., steps+1, n), controls (..., steps, m), the status of each solve (..., steps), and the sum
        of the stage costs (...). A problem that a step does not solve goes on with what the solver has, or, where that
        is no trajectory, with the plan before; there is one warning, or error, of all steps, by ``on_unconverged``.

        Differentiable, in both modes, with respect to x0, the parameters of controller and plant, and the disturbance;
        memory is linear in the steps. Raises what a call raises, and ParameterError with ``restarts``.
        """
        if self.restarts:
            raise ParameterError(
                f"{self.controller.name}: a closed loop starts each step from the plan before; make a controller "
                f"without restarts={self.restarts} for it"
            )
        parameters = learnable.with_learned(self, self.controller, self.learned, parameters, x0)
        if learnable.is_autocast(x0):
            x0, u_init, disturbance, _ = learnable.leave_autocast(x0, u_init, disturbance, {})
            parameters, plant_parameters = (raised_to(x0, given) for given in (parameters, plant_parameters))
        loop, x0 = make_loop(
            self, self, x0, steps, plant, plant_parameters, disturbance, u_init, horizon, parameters
        )
        found = loop.run(x0)
        if _is_computed():
            device = device_of(self.controller, found.status)
            try:
                device.report_steps(
                    found.status, self.options.on_unconverged, functools.partial(loop.describe_input, found.x)
                )
            except UnconvergedError as error:
                error.solution = ClosedLoop(*(part.detach() for part in found))
                raise
        return found

    def make_start(self, u_init: Tensor | None, solution: Outputs | None) -> Start:
        """What a step of a closed loop starts from: a guess, or the solution before it, moved on by a stage."""
        return make_start(self.controller, self.options, u_init, None, solution, None)

    def solve_quietly(
        self, x: Tensor, start: Start, horizon: int | None, parameters: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """Outputs of a solve with leading dimensions, of whose failures nobody is told."""
        if self.unrolled is None and not torch.compiler.is_compiling():
            found = self.quiet_direct.find(self.controller, self.quiet, x, start, horizon, parameters)
            if found is not None:
                known, every = found
                return functions.solve_directly(known, self.key, self.quiet_texts[0], x, start, every)
        call = make_call(self.controller, x, start, horizon, parameters)
        return _led(self._flat_quietly(call), call.batch_shape)

    def _example(self) -> str:
        return next((p.name for p in self.controller.parameters), "horizon")

    def _checked(self, x0: Any, start: Start, horizon: Any, parameters: Mapping[str, Any]) -> Solution:
        """Check the call, solve it, and remember where the solution comes from."""
        call = make_call(self.controller, x0, start, horizon, parameters)
        origin = origin_of(self.key, self.options_text, call.parameters)
        if not self.restarts:
            outputs = self._solve(call)
            return Solution.of(outputs, origin, record(origin, call) if self.history else None)
        tries = try_starts(self.key, self.options, call, self.restarts, self.seed, self._solve_quietly)
        outputs = self._solve(tries.winners) if self.unrolled is not None else self._attach(tries)
        history = tries.of_winners(*(record(origin, each) for each in tries.calls)) if self.history else None
        return Solution.of(outputs, origin, history, None, tries.restarts)

    def _solve_quietly(self, call: Call, only_rollout: bool) -> tuple[Tensor, ...]:
        """Outputs of `kernels.solve` of a flat batch, whose failures nobody is told of."""
        return self._flat(self.quiet_texts[only_rollout], call)

    def _attach(self, tries: Tries) -> tuple[Tensor, ...]:
        """The outputs of the winners, differentiable, with the call's leading dimensions."""
        call, found = tries.winners, tries.outputs
        if torch.compiler.is_compiling():
            parameters = list(call.parameters)
            outputs = library.attach(self.key, self.options_text, list(found), call.x0, parameters)
        else:
            outputs = functions.attach(self.key, self.options_text, found, call.x0, call.parameters)
        return _led(outputs, call.batch_shape)

    def _solve(self, call: Call) -> tuple[Tensor, ...]:
        """Outputs of `kernels.solve` with the call's leading dimensions."""
        if self.unrolled is not None:
            outputs = self.unrolled.solve(self.controller, self.options, call)
        else:
            outputs = self._flat(self.options_text, call)
        return _led(outputs, call.batch_shape)

    def _flat(self, options: str, call: Call) -> tuple[Tensor, ...]:
        """Outputs of `kernels.solve` of a flat batch. options: as text."""
        plain = (self.key, options, call.horizon, call.x0)
        if torch.compiler.is_compiling():
            return tuple(library.solve(*plain, *call.start, list(call.parameters)))
        return functions.solve(*plain, call.start, call.parameters)

    def extra_repr(self) -> str:
        """Sizes, options and what is learned."""
        c, o = self.controller, self.options
        learned = f", learn={list(self.learned)}" if self.learned else ""
        return (
            f"{c.name}: n={len(c.states)}, m={len(c.controls)}, N={c.horizon}, hessian={o.hessian!r}, "
            f"gradient={o.gradient!r}, on_unconverged={o.on_unconverged!r}{learned}"
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Class by reference, and everything that the instance holds."""
        where = copying.reference(parametrize.type_before_parametrizations(self))
        return copying.blank, (where,), self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a state, in a process where the controller may be another build of the same problem."""
        copying.make_properties(self, state["_modules"].get("parametrizations", ()))
        super().__setstate__(state)
        self.key = library.register(self.controller)
