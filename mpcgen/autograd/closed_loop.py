"""Closed loops: a controller and its plant, step after step, differentiable as a whole.

Every step is a solve from the plan before, moved on by a stage, and a step of the plant; both are differentiable, and
so is what is composed of them, in either mode. What autograd keeps of a step is its plan, so memory is linear in the
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mpcgen.autograd import summary
from mpcgen.autograd.compiled_loop import OtherPlant, are_alike, is_compiled, run_compiled
from mpcgen.autograd.evaluation import ProblemFunctions
from mpcgen.calls import learnable
from mpcgen.calls.arguments import Call, Start, as_tensor, make_call
from mpcgen.calls.invalid import describe_input
from mpcgen.calls.options import Options, as_count
from mpcgen.calls.warm_start import all_converged
from mpcgen.errors import DtypeError, ParameterError, ShapeError
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.outputs import Outputs
from mpcgen.runtime.status import WITHOUT_VALUE

Tensors = tuple[Tensor, ...]
Plant = Callable[[Tensor, Tensor], Tensor]


class PerStep:
    """A parameter's value at each step of a closed loop: step t takes ``values[t]``, (..., [stages,] *shape)."""

    def __init__(self, values: Tensor | Sequence[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        """Return the number of steps; raises ParameterError where there is one value and no axis of them."""
        try:
            return len(self.values)
        except TypeError as error:
            raise ParameterError(f"PerStep({self.values!r}): a value for each step is expected") from error


class ClosedLoop(NamedTuple):
    """What became of a controller and its plant.

    x: (..., steps+1, n) states. u: (..., steps, m) controls. status: (..., steps) of each solve, `mpcgen.Status`.
    cost: (...) the sum of the stage costs: the plant's, where it has any, else the controller's.
    """

    x: Tensor
    u: Tensor
    status: Tensor
    cost: Tensor

    def __repr__(self) -> str:
        """A line: sizes and statuses; of tensors without numbers their shapes."""
        if not summary.has_numbers(*self):
            return summary.shapes("ClosedLoop", zip(self._fields, self, strict=True))
        return (
            f"<ClosedLoop: {summary.problems(self.cost.shape)}, {self.u.shape[-2]} steps, "
            f"{str(self.u.dtype).removeprefix('torch.')}; {summary.statuses(self.status)}>"
        )


class Solves(Protocol):
    """The controller, as a closed loop needs it."""

    @property
    def controller(self) -> Controller:
        """What it controls."""

    @property
    def quiet(self) -> Options:
        """Its options, by which nobody is told of solves that failed."""

    def make_start(self, u_init: Tensor | None, solution: Outputs | None) -> Start:
        """What a step starts from: a guess, or the solution before it."""

    def solve_quietly(
        self, x: Tensor, start: Start, horizon: int | None, parameters: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """Outputs of a solve, of whose failures nobody is told."""


@dataclass(frozen=True)
class Loop:
    """A closed loop to be run; ``parameters`` and ``plant_parameters`` are by name, some of them `PerStep`.

    calls: what its first steps ask, of each step if anything differs between them, as the check of x0 alone found it.
    """

    mpc: Solves
    functions: ProblemFunctions
    steps: int
    plant: Plant | ProblemFunctions | None
    parameters: Mapping[str, Any]
    plant_parameters: Mapping[str, Any]
    disturbance: Tensor | None
    u_init: Tensor | None
    horizon: int | None
    calls: Sequence[Call] = ()

    def run(self, x0: Tensor) -> ClosedLoop:
        """All steps from ``x0``; its leading dimensions are those of the whole loop."""
        return self._run_compiled(x0) or self._run_by_steps(x0)

    def _run_compiled(self, x0: Tensor) -> ClosedLoop | None:
        """All steps in the kernels, or None where these cannot run them."""
        mpc, given = self.mpc, (*self.parameters.values(), *self.plant_parameters.values())
        tensors = [x0, self.disturbance, self.u_init, *map(_value, given)]
        if not _is_compiled_plant(self.functions if self.plant is None else self.plant):
            return None
        if not is_compiled(mpc.controller, mpc.quiet, tensors):
            return None
        calls, plant = self._calls_of(x0), self._other_plant(x0)
        of_steps = [[call.parameters for call in calls], plant.parameters if plant else [()]]
        if not all(map(are_alike, of_steps)):
            return None
        by_step = _by_step(self.parameters)
        found = run_compiled(mpc.controller, mpc.quiet, calls, by_step, self.steps, self.disturbance, plant)
        return ClosedLoop(*found)

    def _other_plant(self, x0: Tensor) -> OtherPlant | None:
        """The plant by itself where it is a generated controller; its parameters are checked as those of its step are.

        So is the model where the interior point begins, which leaves it no parameters to move on with.
        """
        if isinstance(self.plant, ProblemFunctions):
            plant, given = self.plant, self.plant_parameters
        elif self.mpc.controller.constraints or self.mpc.quiet.is_interior_point:
            plant, given = self.functions, self.parameters
        else:
            return None
        u = x0.new_zeros(*x0.shape[:-1], len(plant.controller.controls))

        def parameters(t: int) -> Tensors:
            return plant.flat_parameters(x0, u, _of_one_stage(plant.controller, _at_step(given, t), x0))

        by_step = _by_step(given)
        of_steps = [parameters(t) for t in range(self.steps if by_step else 1)]
        return OtherPlant(plant.controller, of_steps, by_step)

    def describe_input(self, x: Tensor, problem: int, step: int) -> str:
        """What is invalid of a problem's input at a step; "" where nothing is. x: (..., steps+1, n) of the loop."""
        mpc, given = self.mpc, _at_step(self.parameters, step)
        start = mpc.make_start(self.u_init, None) if step == 0 else Start()
        call = make_call(mpc.controller, x[..., step, :].detach(), start, self.horizon, given)
        room = mpc.quiet.smooth == "solve"
        return describe_input(mpc.controller, call.x0, start.named, call.parameters, problem, need_room=room)

    def _calls_of(self, x0: Tensor) -> Sequence[Call]:
        """What the first steps ask, each of the first state ``x0``, which has the loop's leading dimensions."""
        if all(call.batch_shape == x0.shape[:-1] for call in self.calls):
            return self.calls
        return list(self.ask(x0))

    def ask(self, x0: Tensor) -> Iterator[Call]:
        """Check what the first steps ask of ``x0``: that of each step if anything differs between them."""
        controller, start = self.mpc.controller, self.mpc.make_start(self.u_init, None)
        for t in range(self.steps if _by_step(self.parameters) else 1):
            yield make_call(controller, x0, start, self.horizon, _at_step(self.parameters, t))

    def _run_by_steps(self, x0: Tensor) -> ClosedLoop:
        """One step after the other."""
        start = self.mpc.make_start(self.u_init, None)
        states, controls, statuses, costs = [x0], [], [], []
        for t in range(self.steps):
            x, given = states[-1], _at_step(self.parameters, t)
            outputs = Outputs(*self.mpc.solve_quietly(x, start, self.horizon, given))
            u = _first_control(outputs, start.u, x)
            following, cost = self._move(x, u, given, t)
            states.append(following if self.disturbance is None else following + self.disturbance[..., t, :])
            controls.append(u)
            statuses.append(outputs.status)
            costs.append(cost)
            start = self.mpc.make_start(None, outputs)
        return ClosedLoop(
            torch.stack(states, -2),
            torch.stack(controls, -2),
            torch.stack(statuses, -1),
            torch.stack(costs, -1).sum(-1),
        )

    def _move(self, x: Tensor, u: Tensor, given: Mapping[str, Any], t: int) -> tuple[Tensor, Tensor]:
        """Next state of the plant, and what the step costs."""
        if self.plant is None:
            return self.functions.step(x, u, **_of_one_stage(self.mpc.controller, given, x))
        if isinstance(self.plant, ProblemFunctions):
            own = _at_step(self.plant_parameters, t)
            return self.plant.step(x, u, **_of_one_stage(self.plant.controller, own, x))
        moved = self.plant(x, u)
        _check_moved(self.mpc.controller, moved, x)
        cost = self.functions.stage_cost(x, u, **_of_one_stage(self.mpc.controller, given, x))
        return moved, cost


def make_loop(
    mpc: Solves,
    functions: ProblemFunctions,
    x0: Tensor,
    steps: Any,
    plant: Any,
    plant_parameters: Mapping[str, Any] | None,
    disturbance: Any,
    u_init: Tensor | None,
    horizon: Any,
    parameters: Mapping[str, Any],
) -> tuple[Loop, Tensor]:
    """Check a closed loop before anything is computed; returns it, and x0 with the loop's leading dimensions."""
    controller = mpc.controller
    _refuse_names(
        controller, plant=plant, plant_parameters=plant_parameters, disturbance=disturbance, steps=steps
    )
    count = as_count(steps)
    if count is None or count < 1:
        raise ParameterError(f"{controller.name}: steps={steps!r}; a whole number of at least 1 is expected")
    _check_plant(controller, plant, plant_parameters)
    for name, value in {**parameters, **(plant_parameters or {})}.items():
        if isinstance(value, PerStep) and len(value) != count:
            raise ShapeError(
                f"{controller.name}: {name} has values for {len(value)} steps; the loop has {count}"
            )
    loop = Loop(
        mpc, functions, count, plant, parameters, plant_parameters or {}, disturbance, u_init, horizon
    )
    loop = replace(loop, calls=list(loop.ask(x0)))
    leading = list(_leading(loop, x0))
    try:
        shape = torch.broadcast_shapes(*leading)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(found)) for found in dict.fromkeys(leading))
        raise ShapeError(
            f"{controller.name}: the leading (batch) dimensions of x0 and parameters, of plant_parameters and of "
            f"disturbance do not broadcast: {shapes}"
        ) from error
    return loop, x0.expand(*shape, x0.shape[-1]).contiguous()


def raised_to(x0: Tensor, given: Any) -> Any:
    """Parameters by name that autocast may have lowered, those of each step too, in the dtype of ``x0``."""
    if isinstance(given, PerStep):
        return PerStep(raised_to(x0, given.values))
    if isinstance(given, list | tuple):
        return [raised_to(x0, value) for value in given]
    if isinstance(given, Mapping):
        return {name: raised_to(x0, value) for name, value in given.items()}
    return learnable.raised_to(x0, given)


def _refuse_names(controller: Controller, **given: Any) -> None:
    """Raise ParameterError where an argument of the loop may be meant for a parameter of the same name."""
    known = {parameter.name for parameter in controller.parameters}
    for name, value in given.items():
        if value is not None and name in known:
            raise ParameterError(
                f"{controller.name}: {name}= is an argument of closed_loop and a parameter of the problem; give the "
                "parameter another name"
            )


def _check_plant(controller: Controller, plant: Any, given: Mapping[str, Any] | None) -> None:
    if not isinstance(given, Mapping | None):
        raise ParameterError(
            f"{controller.name}: plant_parameters is a {type(given).__name__}; a mapping of names to values is expected"
        )
    if given and (plant is None or not isinstance(plant, ProblemFunctions)):
        raise ParameterError(
            f"{controller.name}: plant_parameters are those of a generated controller, plant=; "
            + (
                "without plant= the model moves by the controller's own parameters, and plant= this MPC gives it others"
                if plant is None
                else "a callable has its own"
            )
        )
    if isinstance(plant, ProblemFunctions):
        sizes = [(len(c.states), len(c.controls)) for c in (plant.controller, controller)]
        if sizes[0] != sizes[1]:
            raise ShapeError(
                f"{controller.name}: the plant {plant.controller.name} has {sizes[0][0]} states and {sizes[0][1]} "
                f"controls, the controller {sizes[1][0]} and {sizes[1][1]}"
            )
    elif plant is not None and not callable(plant):
        kind = (
            "a module; its MPC()"
            if hasattr(plant, "MPC")
            else f"a {type(plant).__name__}; a controller, MPC()"
        )
        raise ParameterError(
            f"{controller.name}: plant is {kind}, None for the model itself, or a function of x (..., n) and "
            "u (..., m) that returns the next state is expected"
        )


def _leading(loop: Loop, x0: Tensor) -> Iterator[torch.Size]:
    """Leading dimensions of all that has any; raises ShapeError and its kin where a shape is not as it should be."""
    controller = loop.mpc.controller
    yield from (call.batch_shape for call in loop.calls)
    if isinstance(loop.plant, ProblemFunctions):
        plant = loop.plant.controller
        for p in plant.parameters:
            if p.name in loop.plant_parameters:
                for value in _of_each_step(loop.plant_parameters[p.name]):
                    shape = as_tensor(plant, p, value, x0).shape
                    yield shape[: max(len(shape) - len(p.shape) - p.per_stage, 0)]  # see `_of_one_stage`
    n, found = len(controller.states), loop.disturbance
    if found is None:
        return
    if not isinstance(found, Tensor) or found.dtype != x0.dtype:
        kind = found.dtype if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise DtypeError(f"{controller.name}: disturbance is {kind}; a tensor of x0's {x0.dtype} is expected")
    if found.ndim < 2 or tuple(found.shape[-2:]) != (loop.steps, n):
        raise ShapeError(
            f"{controller.name}: disturbance has shape {tuple(found.shape)}; (..., {loop.steps}, {n}), what is added "
            "to the state after each step, is expected"
        )
    yield found.shape[:-2]


def _value(given: Any) -> Any:
    return given.values if isinstance(given, PerStep) else given


def _of_each_step(given: Any) -> Sequence[Any]:
    """Values of the steps, or the one of all."""
    return list(given.values) if isinstance(given, PerStep) else [given]


def _by_step(values: Mapping[str, Any]) -> list[str]:
    """Names of what each step has its own of."""
    return [name for name, value in values.items() if isinstance(value, PerStep)]


def _is_compiled_plant(plant: Any) -> bool:
    """Whether kernels on a CPU are its step: a subclass may have one of its own, in Python."""
    return (
        isinstance(plant, ProblemFunctions)
        and getattr(plant.step, "__func__", None) is ProblemFunctions.step
        and plant.controller.library.kind == "cpu"
    )


def _at_step(values: Mapping[str, Any], t: int) -> dict[str, Any]:
    return {name: value.values[t] if isinstance(value, PerStep) else value for name, value in values.items()}


def _of_one_stage(controller: Controller, given: Mapping[str, Any], x: Tensor) -> dict[str, Any]:
    """The first stage's values of parameters that have an axis of stages."""
    values = dict(given)
    for p in controller.parameters:
        if p.per_stage and p.name in values:
            value = as_tensor(controller, p, values[p.name], x)
            more = value.ndim - len(p.shape)
            values[p.name] = value.select(more - 1, 0) if more > 0 else value
    return values


def _first_control(outputs: Outputs, plan: Tensor | None, x: Tensor) -> Tensor:
    """The first control of the solution, or of the plan before where a problem has none but a state to go on from."""
    u = outputs.u[..., 0, :]
    if all_converged(outputs.status):
        return u
    lacks = outputs.status == int(WITHOUT_VALUE[0])
    for status in WITHOUT_VALUE[1:]:
        lacks = lacks | (outputs.status == int(status))
    lacks = lacks & x.detach().isfinite().all(-1)
    before = torch.zeros_like(u) if plan is None else plan.detach()[..., 0, :].expand(u.shape)
    return torch.where(lacks[..., None], before, u)


def _check_moved(controller: Controller, moved: Any, x: Tensor) -> None:
    if not isinstance(moved, Tensor):
        raise DtypeError(
            f"{controller.name}: the plant returns a {type(moved).__name__}; a tensor is expected"
        )
    if moved.shape != x.shape or moved.dtype != x.dtype:
        raise ShapeError(
            f"{controller.name}: the plant returns {moved.dtype} of shape {tuple(moved.shape)}; {x.dtype} of shape "
            f"{tuple(x.shape)}, as the state, is expected"
        )
