"""Closed loops: what the same loop written by hand gives, with gradients, for every kind of plant."""

import ctypes
import functools
import weakref

import pytest
import sympy as sp
import torch
from torch import Tensor

import mpcgen
from examples.bench.problems import linear_quadratic
from mpcgen import Status
from mpcgen.autograd import compiled_loop
from mpcgen.autograd.closed_loop import Loop
from mpcgen.calls import closed_loop
from mpcgen.calls.devices import Cpu
from mpcgen.errors import (
    DtypeError,
    ParameterError,
    SecondDerivativeError,
    ShapeError,
    UnconvergedError,
)
from tests.controllers import compiled
from tests.test_hand_over import catalyst

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

F64 = torch.float64
STEPS = 5


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64, requires_grad=True)


def by_hand(mpc, x0, move, steps=STEPS, **parameters) -> tuple[Tensor, Tensor, Tensor]:
    """The loop as a user would write it; move(x, u) gives next state and cost."""
    states, controls, total, solution = [x0], [], 0.0, None
    for _ in range(steps):
        start = {} if solution is None else {"warm_start": solution}
        solution = mpc(states[-1], **start, **parameters)
        controls.append(solution.u[:, 0])
        following, cost = move(states[-1], controls[-1])
        states.append(following)
        total = total + cost
    return torch.stack(states, 1), torch.stack(controls, 1), total


def loss(x: Tensor, u: Tensor, cost: Tensor) -> Tensor:
    return (x**2).sum() + torch.sin(u).sum() + cost.sum()


def test_values_and_gradients_are_those_of_the_loop_by_hand(pendulum):
    mpc, mass = pendulum.mpc(), scalar(1.1)
    x0 = pendulum.starts(4, 0).requires_grad_()
    hand = by_hand(mpc, x0, lambda x, u: mpc.step(x, u, mass=mass), mass=mass)
    found = mpc.closed_loop(x0, STEPS, mass=mass)
    assert found.x.shape == (4, STEPS + 1, 3) and found.u.shape == (4, STEPS, 1)
    assert found.status.shape == (4, STEPS) and (found.status == Status.CONVERGED).all()
    for a, b in zip(hand, (found.x, found.u, found.cost), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
    ours = torch.autograd.grad(loss(found.x, found.u, found.cost), (x0, mass))
    theirs = torch.autograd.grad(loss(*hand), (x0, mass))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.fixture
def step_by_step(monkeypatch):
    """Runs a loop in Python, by calls of single kernels."""

    def run(mpc, x0, *arguments, **options):
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "run", Loop._run_by_steps)
            return mpc.closed_loop(x0, *arguments, **options)

    return run


def is_same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def variety(pendulum, count: int) -> list[dict]:
    """Arguments of loops: parameters and disturbances that the batch shares or not, by step or not."""
    masses = torch.linspace(0.8, 1.2, STEPS * count, dtype=F64)
    push = 0.01 * torch.sin(torch.arange(count * STEPS * 3, dtype=F64)).reshape(count, STEPS, 3)
    start = torch.linspace(-1, 1, pendulum.module.CONTROLLER.horizon, dtype=F64)[:, None]
    return [
        {"mass": masses[:1].reshape(())},
        {"mass": masses[:count], "disturbance": push[0]},
        {"mass": mpcgen.PerStep(masses[:STEPS]), "disturbance": push},
        {"mass": mpcgen.PerStep(masses.reshape(STEPS, count)), "u_init": start},
    ]


METHODS = pytest.mark.parametrize("method", ["auto", "interior_point"])


@METHODS
@pytest.mark.parametrize("count", [1, 11])
def test_the_compiled_loop_is_the_loop_in_python_to_the_last_bit(pendulum, step_by_step, count, method):
    x0 = pendulum.starts(count, 0)
    if count > 1:
        x0[3, 0], x0[5] = torch.nan, torch.tensor([1e200, -1e200, 1e200])
    for iterations in (200, 2):
        mpc = pendulum.module.MPC(max_iterations=iterations, on_unconverged="ignore", method=method)
        for given in variety(pendulum, count):
            found, expected = mpc.closed_loop(x0, STEPS, **given), step_by_step(mpc, x0, STEPS, **given)
            assert all(map(is_same, found, expected))
            assert iterations < 200 or (found.status[0] == Status.CONVERGED).all()


@METHODS
@pytest.mark.parametrize("count", [1, 11])
def test_gradients_of_the_compiled_loop_are_those_of_the_loop_in_python(
    pendulum, step_by_step, count, method
):
    x0, mpc = pendulum.starts(count, 0).requires_grad_(), pendulum.mpc(method=method)
    for given in variety(pendulum, count):
        held = {k: v.values if isinstance(v, mpcgen.PerStep) else v for k, v in given.items()}
        leaves = [x0, *(v.requires_grad_() for k, v in held.items() if k != "u_init")]
        loops = mpc.closed_loop(x0, STEPS, **given), step_by_step(mpc, x0, STEPS, **given)
        ours, theirs = (torch.autograd.grad(loss(f.x, f.u, f.cost), leaves) for f in loops)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12) and b.abs().max() > 0


def test_values_of_each_step_that_the_batch_shares_lie_in_memory_once(pendulum, monkeypatch):
    seen = []

    def run_loop(call, x0, disturbance, parameters, *rest):
        seen.append([p.shape[:2] for place, p in enumerate(parameters) if place in call.by_step])
        return closed_loop.run_loop(call, x0, disturbance, parameters, *rest)

    monkeypatch.setattr(compiled_loop, "run_loop", run_loop)
    for values in (torch.ones(STEPS, dtype=F64), torch.ones(STEPS, 11, dtype=F64)):
        pendulum.mpc().closed_loop(pendulum.starts(11, 0), STEPS, mass=mpcgen.PerStep(values))
    assert seen == [[(STEPS, 1)], [(STEPS, 11)]]


@pytest.mark.parametrize("bound", [None, 0.5])
def test_the_gradient_of_states_alone_is_that_of_the_loop_in_python(step_by_step, bound):
    """Of linear-quadratic problems the solver's own gains are taken, but where it is not sure which bounds hold.

    Beside them what differentials find, of the same states to the bit: those of a loop that is solved loosely are not
    the ones of the loop in Python.
    """
    problem = linear_quadratic(3, 2, 8, bound=bound)
    drawn = problem.draw(11, F64, 0)
    x0 = drawn.x0.requires_grad_()
    recorded = drawn.parameters | {"F": drawn.parameters["F"].clone().requires_grad_()}
    for options in (
        {},
        {"tol": 1e-1},
        {"smoothing": 1e-2},
        {"max_iterations": 1, "unconverged_gradient": "keep"},
    ):
        mpc = compiled(problem.spec).MPC(on_unconverged="ignore", **options)
        loops = [mpc.closed_loop(x0, STEPS, **given) for given in (drawn.parameters, recorded)]
        assert torch.equal(loops[0].x, loops[1].x)
        loops += [] if "tol" in options else [step_by_step(mpc, x0, STEPS, **drawn.parameters)]
        ours, *others = (torch.autograd.grad(loss(f.x, f.u, f.cost), x0)[0] for f in loops)
        for theirs in others:
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_linear_quadratic_loop_that_follows_its_policies_is_the_one_in_python(step_by_step):
    """With pushes that bring bounds into play and out again; where the model changes, policies are not followed."""
    problem = linear_quadratic(3, 2, 8, bound=0.5)
    drawn = problem.draw(11, F64, 0)
    push = torch.zeros(11, 12, 3, dtype=F64)
    push[:, 6] = drawn.x0
    push[::2, 3] = 0.01
    mpc = compiled(problem.spec).MPC()
    found = mpc.closed_loop(0.1 * drawn.x0, 12, disturbance=push, **drawn.parameters)
    expected = step_by_step(mpc, 0.1 * drawn.x0, 12, disturbance=push, **drawn.parameters)
    held = (expected.u.abs() == 0.5).any(-1)
    assert held[:, 6:].any() and not held[:, :6].all() and (found.status == Status.CONVERGED).all()
    assert torch.equal(found.u.abs() == 0.5, expected.u.abs() == 0.5)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)
    for i in (0, 7, 10):  # beside others or not
        alone = mpc.closed_loop(0.1 * drawn.x0[[i, i]], 12, disturbance=push[[i, i]], **drawn.parameters)
        assert is_same(alone.x[0], found.x[i])


def test_matrices_that_a_linear_quadratic_sweep_keeps_are_those_of_the_problem(step_by_step):
    """Lanes of neighbours keep matrices of other parameters, or of other steps; results are to the bit those alone."""
    problem, count = linear_quadratic(3, 2, 8, bound=0.5), 21
    drawn = problem.draw(count, F64, 0)
    mpc, F = compiled(problem.spec).MPC(), drawn.parameters["F"]
    own = drawn.parameters | {
        "F": torch.linspace(0.8, 1.2, count, dtype=F64)[:, None, None, None] * F.expand(8, 3, 5)
    }
    changing = own | {"F": mpcgen.PerStep(torch.stack([own["F"] * (1 + 0.02 * t) for t in range(STEPS)]))}
    whole, loop = mpc(drawn.x0, **own), mpc.closed_loop(drawn.x0, STEPS, **own)
    concave = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, -5.0], dtype=F64))
    shifted = mpc(drawn.x0, **(own | {"C": concave}))
    assert (shifted.u[:, -1, 1].abs() == 0.5).all() and shifted.converged.all()
    for i in (0, 7, 20):
        alone = own | {"F": own["F"][[i, i]]}
        sol, alone_loop = mpc(drawn.x0[[i, i]], **alone), mpc.closed_loop(drawn.x0[[i, i]], STEPS, **alone)
        assert is_same(sol.u[0], whole.u[i]) and is_same(sol.gains[0], whole.gains[i])
        assert is_same(alone_loop.x[0], loop.x[i])
        # and where lanes shift Quu, whose factors are not kept
        sol = mpc(drawn.x0[[i, i]], **(alone | {"C": concave}))
        assert is_same(sol.u[0], shifted.u[i]) and is_same(sol.gains[0], shifted.gains[i])
    differing = own | {"F": mpcgen.PerStep([F, F.expand(8, 3, 5), own["F"], 0.9 * F, own["F"]])}
    for given in (changing, differing):
        assert is_same(
            mpc.closed_loop(drawn.x0, STEPS, **given).x, step_by_step(mpc, drawn.x0, STEPS, **given).x
        )


def test_a_loop_that_begins_with_the_interior_point_runs_in_the_kernels(pendulum, monkeypatch):
    mpc, plant = pendulum.mpc(method="interior_point"), pendulum.mpc()
    monkeypatch.delattr(Loop, "_run_by_steps")
    for given in ({}, {"plant": plant, "plant_parameters": {"mass": 1.2}}):
        assert (mpc.closed_loop(pendulum.starts(2, 0), STEPS, **given).status == Status.CONVERGED).all()


def test_the_compiled_loop_waits_for_the_interior_point(step_by_step):
    module, x0, u, _ = catalyst()
    mpc = module.MPC(on_unconverged="ignore")
    found, expected = mpc.closed_loop(x0, 3, u_init=u), step_by_step(mpc, x0, 3, u_init=u)
    assert (found.status == Status.CONVERGED).all() and all(map(is_same, found, expected))
    alone = module.MPC(on_unconverged="ignore", method="ddp").closed_loop(x0, 3, u_init=u)
    assert (alone.status != Status.CONVERGED).any()


@METHODS
def test_the_compiled_loop_does_not_depend_on_neighbours_or_threads(pendulum, method):
    x0 = pendulum.starts(300, 0)
    whole = pendulum.mpc(threads=2, method=method).closed_loop(x0, 3)
    part = pendulum.mpc(threads=1, method=method).closed_loop(x0[131:140], 3)
    assert all(is_same(a[131:140], b) for a, b in zip(whole, part, strict=True))


def test_a_gradient_may_keep_its_graph_which_ends_there(pendulum):
    x0 = pendulum.starts(2, 0).requires_grad_()
    total = pendulum.mpc().closed_loop(x0, 2).cost.sum()
    (plain,) = torch.autograd.grad(total, x0, retain_graph=True)
    (kept,) = torch.autograd.grad(total, x0, create_graph=True)
    assert torch.equal(kept, plain) and kept.requires_grad
    with pytest.raises(SecondDerivativeError):
        kept.sum().backward()


def test_several_gradients_at_once_are_those_one_by_one(pendulum):
    x0, push = pendulum.starts(2, 0).requires_grad_(), torch.zeros(2, 3, dtype=F64, requires_grad=True)
    x = pendulum.mpc().closed_loop(x0, 2, disturbance=push).x
    cotangents = torch.randn(4, *x.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    for more in ({}, {"create_graph": True}):
        together = torch.autograd.grad(
            x, (x0, push), cotangents, is_grads_batched=True, retain_graph=True, **more
        )
        single = [torch.autograd.grad(x, (x0, push), one, retain_graph=True) for one in cotangents]
        for a, b in zip(together, zip(*single, strict=True), strict=True):
            assert torch.equal(a, torch.stack(b)) and a.abs().max() > 0


def test_at_rest_in_float32_rounding_of_states_is_weighed_with_matrices_that_are_kept():
    """Far away, a follower that keeps its distance: what is left of the cost is rounding of where both are."""
    problem = mpcgen.Problem("follower", horizon=20)
    ahead, own, speed = problem.states("ahead own speed")
    (push,) = problem.controls("push", lower=-2.0, upper=2.0)
    problem.dynamics = [ahead + 0.03, own + 0.1 * speed + 0.005 * push, 0.97 * speed + 0.1 * push]
    problem.stage_cost = (ahead - own) ** 2 + 0.1 * (speed - 0.3) ** 2 + 0.01 * (push - 0.09) ** 2
    problem.terminal_cost = 10 * (ahead - own) ** 2
    mpc = compiled(problem, ("float32",)).MPC(on_unconverged="ignore")
    x0 = torch.tensor([[1e3, 1e3, 0.3], [1e3, 1e3 + 1e-3, 0.3], [1e3, 1e3 + 1, 0.0]])
    assert (mpc.closed_loop(x0, 30).status == Status.CONVERGED).all()


@pytest.mark.parametrize("itself", [False, True], ids=["another", "itself"])
def test_a_plant_may_be_a_controllers_model_or_a_function(pendulum, itself):
    mpc, x0 = pendulum.mpc(), pendulum.starts(3, 1)
    plant, heavy = mpc if itself else pendulum.mpc(), scalar(1.4)
    generated = mpc.closed_loop(x0, STEPS, plant=plant, plant_parameters={"mass": heavy})
    written = mpc.closed_loop(x0, STEPS, plant=lambda x, u: plant.dynamics(x, u, mass=heavy))
    assert torch.allclose(generated.x, written.x, rtol=1e-12)
    assert (generated.x - mpc.closed_loop(x0, STEPS).x).abs().max() > 1e-3
    slopes = [torch.autograd.grad((f.x**2).sum() + f.u.sum(), heavy)[0] for f in (generated, written)]
    assert torch.allclose(*slopes, rtol=1e-10) and slopes[0] != 0
    # the stage cost does not read the mass, so that here both are judged alike
    assert torch.allclose(generated.cost, written.cost, rtol=1e-12)


@functools.cache
def other_plant():
    """A model of three states and a control with parameters of its own, and a bound that no plant keeps."""
    problem = mpcgen.Problem("bead", horizon=4)
    a, b, speed = problem.states("a b speed", upper=[2.0, sp.oo, sp.oo])
    push = problem.control("push", lower=-3.0, upper=3.0)
    gain = problem.parameter("gain", shape=2, default=[0.1, 0.2], per_stage=True)
    drag = problem.parameter("drag", default=0.05)
    turned = sp.sin(gain[0] * speed)
    problem.dynamics = [a - b * turned, b + a * turned, (1 - drag) * speed + gain[1] * push]
    problem.stage_cost = drag * speed**2 + gain[0] * b * push + 0.1 * push**2
    problem.terminal_cost = a**2
    return compiled(problem)


def plants(pendulum, count: int) -> list[tuple]:
    """A plant with its parameters: of all steps or of each, of a problem or of the batch; one of them learned."""
    gains = torch.linspace(0.05, 0.2, STEPS * count * 8, dtype=F64).reshape(STEPS, count, 4, 2)
    drags = torch.linspace(0.01, 0.1, STEPS, dtype=F64)
    learning = other_plant().MPC(learn=["gain"], initial={"gain": gains[0, 0]})
    return [
        (pendulum.mpc(), {"mass": torch.tensor(1.4, dtype=F64)}),
        (other_plant().MPC(), {}),
        (other_plant().MPC(), {"gain": gains[0], "drag": drags[2]}),
        (other_plant().MPC(), {"gain": mpcgen.PerStep(gains), "drag": mpcgen.PerStep(drags)}),
        (learning, {"drag": drags[:1].expand(count)}),
    ]


@METHODS
@pytest.mark.parametrize("count", [1, 11])
def test_loops_with_another_generated_plant_run_in_the_kernels_as_in_python(
    pendulum, step_by_step, count, method
):
    x0, mpc = pendulum.starts(count, 0), pendulum.module.MPC(on_unconverged="ignore", method=method)
    x0[-1] = torch.nan
    x0 = x0 if count > 1 else pendulum.starts(1, 0)
    push = 0.01 * torch.sin(torch.arange(count * STEPS * 3, dtype=F64)).reshape(count, STEPS, 3)
    for plant, own in plants(pendulum, count):
        given = {"plant": plant, "plant_parameters": own, "disturbance": push}
        found, expected = mpc.closed_loop(x0, STEPS, **given), step_by_step(mpc, x0, STEPS, **given)
        assert all(map(is_same, found, expected)) and found.x[0].isfinite().all()


@pytest.mark.parametrize("recorded", [True, False], ids=["with_the_controllers", "of_the_plant_alone"])
@pytest.mark.parametrize("count", [1, 11])
def test_gradients_reach_the_parameters_of_another_generated_plant(pendulum, step_by_step, count, recorded):
    mpc, mass = pendulum.mpc(), torch.tensor(1.1, dtype=F64).requires_grad_(recorded)
    push = (0.01 * torch.ones(STEPS, 3, dtype=F64)).requires_grad_()
    for plant, own in plants(pendulum, count):
        x0 = torch.tensor([1.0, 0.1, 0.0], dtype=F64).repeat(count, 1).requires_grad_()  # controls are free
        held = [v.values if isinstance(v, mpcgen.PerStep) else v for v in own.values()]
        leaves = [x0, push, *plant.parameters(), *([mass] if recorded else [])]
        leaves += [v.requires_grad_() for v in held if v.is_leaf]
        given = {"plant": plant, "plant_parameters": own, "disturbance": push, "mass": mass}
        loops = mpc.closed_loop(x0, STEPS, **given), step_by_step(mpc, x0, STEPS, **given)
        ours, theirs = (torch.autograd.grad(loss(f.x, f.u, f.cost), leaves) for f in loops)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12) and b.abs().max() > 0


def test_a_plants_parameters_have_the_batch_that_any_step_gives_them(pendulum, step_by_step):
    mpc, plant, x0 = pendulum.mpc(), other_plant().MPC(), pendulum.starts(1, 0)[0]
    drags = [0.05, torch.tensor([0.01, 0.03, 0.05], dtype=F64), [0.1, 0.2, 0.3], 0.1, 0.02]
    given = {"plant": plant, "plant_parameters": {"drag": mpcgen.PerStep(drags)}}
    found, expected = mpc.closed_loop(x0, STEPS, **given), step_by_step(mpc, x0, STEPS, **given)
    assert found.x.shape == (3, STEPS + 1, 3) and all(map(is_same, found, expected))
    drags[3] = torch.zeros(2, dtype=F64)
    with pytest.raises(ShapeError, match=r"do not broadcast: \(\), \(3,\), \(2,\)"):
        mpc.closed_loop(x0, STEPS, **given)


@pytest.mark.parametrize("itself", [False, True], ids=["another", "itself"])
def test_a_step_that_a_subclass_has_is_that_of_the_plant(pendulum, itself):
    class Slower(pendulum.module.MPC):
        def step(self, x, u, **given):
            step = super().step(x, u, **given)
            return step._replace(x=step.x * torch.tensor([1.0, 1.0, 0.9], dtype=F64))

    mpc, x0 = Slower(on_unconverged="raise"), pendulum.starts(2, 0)
    x, _, cost = by_hand(mpc, x0, mpc.step)
    found = mpc.closed_loop(x0, STEPS) if itself else pendulum.mpc().closed_loop(x0, STEPS, plant=mpc)
    assert torch.allclose(found.x, x, rtol=1e-12, atol=1e-14) and torch.allclose(found.cost, cost, rtol=1e-12)


def test_under_autocast_parameters_of_plants_and_of_each_step_are_raised_too(pendulum):
    mpc, low = pendulum.mpc(tol=1e-3), torch.bfloat16
    x0, masses = pendulum.starts(2, 0).to(low), torch.tensor([0.9, 1.0, 1.1], dtype=low)

    def run(x0: Tensor, masses: Tensor) -> Tensor:
        of_steps = mpcgen.PerStep(list(masses))
        given = {"plant": mpc, "plant_parameters": {"mass": of_steps}, "mass": mpcgen.PerStep(masses)}
        return mpc.closed_loop(x0, 3, **given).x

    with torch.autocast("cpu", dtype=low):
        found = run(x0, masses)
    assert found.dtype == torch.float32 and torch.equal(found, run(x0.float(), masses.float()))


def test_a_plant_that_gets_no_memory_ends_the_loop(pendulum, monkeypatch):
    mpc, x0 = pendulum.mpc(), pendulum.starts(3, 0).requires_grad_()
    total = mpc.closed_loop(x0, STEPS, plant=mpc).cost.sum()
    refuses = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda arguments: 1)
    address = ctypes.cast(refuses, ctypes.c_void_p).value
    monkeypatch.setattr(Cpu, "address", lambda self, *_: self.ffi.cast("int (*)(const void *)", address))
    with pytest.raises(MemoryError, match="refused the memory to differentiate_loop"):
        total.backward()
    with pytest.raises(MemoryError, match="refused the memory to closed_loop"):
        mpc.closed_loop(x0, STEPS, plant=mpc)


def test_what_is_wrong_with_a_generated_plants_parameters_is_refused(pendulum):
    mpc, x0 = pendulum.mpc(), pendulum.starts(3, 0)
    with pytest.raises(ParameterError, match="bead has no parameter 'mass'"):
        mpc.closed_loop(x0, STEPS, plant=other_plant().MPC(), plant_parameters={"mass": 1.0})
    with pytest.raises(ShapeError, match="bead: gain has shape"):
        mpc.closed_loop(
            x0, STEPS, plant=other_plant().MPC(), plant_parameters={"gain": torch.zeros(3, dtype=F64)}
        )
    with pytest.raises(DtypeError, match="bead"):
        mpc.closed_loop(x0.float(), STEPS, plant=other_plant().MPC())


@functools.cache
def shuttle():
    """Rows of every kind: a bound of a state and one of power, a soft band, a price of the end's row."""
    problem = mpcgen.Problem("shuttle", horizon=8)
    limit, mass = problem.parameters("limit mass", default=[0.8, 1.0])
    goal = problem.parameter("goal", default=0.5, per_stage=True)
    place, speed = problem.states("place speed", lower=[-sp.oo, -limit], upper=[sp.oo, limit])
    push = problem.control("push", lower=-1.0, upper=1.0)
    problem.dynamics = [place + 0.2 * speed, speed + 0.2 * push / mass]
    problem.stage_cost = (place - goal) ** 2 + 0.05 * push**2 + 0.01 * sp.cos(speed)
    problem.terminal_cost = 5 * (place - goal) ** 2 + speed**2
    problem.constraint("power", push * speed, upper=0.3)
    problem.constraint("band", place, upper=0.6, soft=0.3)
    problem.terminal_constraint("slow", speed, lower=-0.1, upper=0.1)
    return compiled(problem)


def shuttles(count: int) -> list[dict]:
    """Arguments of loops whose problems have constraints; some cannot be solved, and some end before they are."""
    pushes = 0.05 * torch.sin(torch.arange(count * STEPS * 2, dtype=F64)).reshape(count, STEPS, 2)
    goals = torch.linspace(-0.2, 0.9, STEPS * count * 8, dtype=F64).reshape(STEPS, count, 8)
    return [
        {},
        {"mass": torch.linspace(0.8, 1.2, count, dtype=F64), "disturbance": pushes[0]},
        {"goal": mpcgen.PerStep(torch.cat([goals, goals[..., -1:]], -1)), "disturbance": pushes},
        {"plant": shuttle().MPC(), "plant_parameters": {"mass": torch.tensor(1.3, dtype=F64)}},
        {"u_init": torch.linspace(-1, 1, 8, dtype=F64)[:, None], "limit": torch.tensor(0.6, dtype=F64)},
    ]


def shuttle_starts(count: int) -> Tensor:
    places = torch.linspace(-0.6, 0.5, count, dtype=F64)
    return torch.stack([places, 0.3 * torch.cos(7 * places)], -1)


@pytest.mark.parametrize("count", [1, 11])
def test_loops_with_constraints_run_in_the_kernels_as_in_python(step_by_step, count):
    x0 = shuttle_starts(count)
    if count > 1:
        x0[3, 0], x0[5, 1] = torch.nan, 2.5  # which is too fast to be slow at the end
    for iterations in (200, 4):
        mpc = shuttle().MPC(max_iterations=iterations, on_unconverged="ignore")
        for given in shuttles(count):
            found, expected = mpc.closed_loop(x0, STEPS, **given), step_by_step(mpc, x0, STEPS, **given)
            assert all(map(is_same, found, expected))
            assert iterations < 200 or (found.status[0] == Status.CONVERGED).all()
    if count > 1:
        part = shuttle().MPC(on_unconverged="ignore").closed_loop(x0[4:7], STEPS)
        whole = shuttle().MPC(on_unconverged="ignore").closed_loop(x0, STEPS)
        assert (whole.status[5] == Status.INFEASIBLE).any()
        assert all(is_same(a, b[4:7]) for a, b in zip(part, whole, strict=True))


@pytest.mark.parametrize("count", [1, 11])
def test_gradients_of_loops_with_constraints_are_those_of_the_loop_in_python(step_by_step, count):
    mpc, x0 = shuttle().MPC(), shuttle_starts(count).requires_grad_()
    for given in shuttles(count):
        held = [v.values if isinstance(v, mpcgen.PerStep) else v for k, v in given.items() if k != "u_init"]
        held += given.get("plant_parameters", {}).values()
        leaves = [x0, *(v.requires_grad_() for v in held if isinstance(v, Tensor))]
        loops = mpc.closed_loop(x0, STEPS, **given), step_by_step(mpc, x0, STEPS, **given)
        ours, theirs = (torch.autograd.grad(loss(f.x, f.u, f.cost), leaves) for f in loops)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12) and b.abs().max() > 0


@pytest.mark.parametrize(("count", "steps"), [(1, 3), (3, 1)])
def test_statuses_may_be_written_to_and_gradients_stay(step_by_step, count, steps):
    x0, mpc = shuttle_starts(count).requires_grad_(), shuttle().MPC()
    found, expected = mpc.closed_loop(x0, steps), step_by_step(mpc, x0, steps)
    found.status.fill_(Status.INFEASIBLE)
    ours, theirs = (torch.autograd.grad(loss(f.x, f.u, f.cost), x0)[0] for f in (found, expected))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_plans_are_among_what_autograd_saves_and_a_gradient_frees(pendulum):
    held: list = []

    def pack(saved: Tensor) -> Tensor:
        copy = saved.detach().clone()
        held.append(weakref.ref(copy))
        return copy

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        total = pendulum.mpc().closed_loop(pendulum.starts(2, 0).requires_grad_(), STEPS).cost.sum()
    horizon = pendulum.module.CONTROLLER.horizon
    assert (STEPS, 2, horizon + 1, 3) in [kept().shape for kept in held]
    total.backward()
    assert all(kept() is None for kept in held)


def test_disturbances_and_parameters_of_each_step(pendulum):
    mpc, x0 = pendulum.mpc(), pendulum.starts(2, 2)
    push = 0.01 * torch.ones(STEPS, 3, dtype=F64, requires_grad=True)
    masses = torch.linspace(0.8, 1.2, STEPS, dtype=F64).requires_grad_()
    found = mpc.closed_loop(x0, STEPS, disturbance=push, mass=mpcgen.PerStep(masses))
    x = x0
    for t in range(STEPS):
        step = mpc.step(x, found.u[:, t], mass=masses[t])
        x = step.x + push[t]
        assert torch.allclose(found.x[:, t + 1], x, rtol=1e-13, atol=1e-14)
    slopes = torch.autograd.grad(found.x[:, -1].sum(), (push, masses))
    assert all(
        (slope != 0).flatten(1).any(1).all() if slope.ndim > 1 else (slope != 0).all() for slope in slopes
    )


@METHODS
def test_forward_mode_is_the_transpose_of_reverse_mode(pendulum, method):
    mpc, x0 = pendulum.mpc(method=method), pendulum.starts(2, 0)

    def run(x0, mass):
        found = mpc.closed_loop(x0, 3, mass=mass)
        return torch.cat([found.x.flatten(), found.u.flatten(), found.cost])

    mass = torch.tensor(1.1, dtype=F64)
    forward, reverse = (
        mode(run, argnums=(0, 1))(x0, mass) for mode in (torch.func.jacfwd, torch.func.jacrev)
    )
    for a, b in zip(forward, reverse, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-9)


def test_what_is_not_solved_goes_on_and_says_so_and_a_bad_problem_stays_alone(pendulum):
    mpc = pendulum.module.MPC(max_iterations=1)
    x0 = pendulum.starts(6, 0)
    x0[2] = torch.nan
    with pytest.warns(mpcgen.UnconvergedWarning) as said:
        found = mpc.closed_loop(x0, STEPS)
    assert len(said) == 1
    assert (found.status[2] == Status.INVALID_INPUT).all() and found.x[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    assert (found.status[others] == Status.MAX_ITERATIONS).any() and found.x[others].isfinite().all()
    alone = pendulum.module.MPC(max_iterations=1, on_unconverged="ignore").closed_loop(x0[others], STEPS)
    assert torch.equal(alone.x, found.x[others]) and torch.equal(alone.status, found.status[others])


def test_where_a_step_has_no_solution_the_plan_before_goes_on(pendulum):
    mpc = pendulum.module.MPC(on_unconverged="ignore")
    heavy = [1.0, 1.0, -torch.inf, 1.0]  # a mass that no model has
    x0, plant = pendulum.starts(2, 0), pendulum.mpc()
    found = mpc.closed_loop(x0, 4, plant=plant, mass=mpcgen.PerStep(torch.tensor(heavy, dtype=F64)))
    assert (found.status[:, 2] == Status.INVALID_INPUT).all() and (
        found.status[:, 3] == Status.CONVERGED
    ).all()
    first = mpc.closed_loop(x0, 2)
    plan = mpc(first.x[:, 1], warm_start=mpc(x0)).u
    assert torch.allclose(found.u[:, 2], plan[:, 1], rtol=1e-9)


def test_the_warning_names_problem_and_step_and_a_step_can_be_looked_at(pendulum):
    x0 = pendulum.starts(2, 0)
    x0[1] = torch.nan
    with pytest.raises(
        UnconvergedError, match=r"3 of 6 solves, 3 for each problem, did not converge"
    ) as error:
        pendulum.mpc().closed_loop(x0, 3)
    assert "of problem 1: at step 0, the state cos_theta of x0 is nan." in str(error.value)
    loop = pendulum.module.MPC(on_unconverged="ignore").closed_loop(x0, 3)
    assert torch.equal(error.value.solution.u[0], loop.u[0])
    assert repr(loop) == "<ClosedLoop: 2 problems, 3 steps, float64; 3 CONVERGED, 3 INVALID_INPUT>"
    masses = mpcgen.PerStep(torch.tensor([1.0, torch.nan, 1.0], dtype=F64))
    with pytest.raises(UnconvergedError, match="invalid: at step 1, the parameter mass is nan"):
        pendulum.mpc().closed_loop(x0[:1], 3, plant=pendulum.mpc(), mass=masses)
    for look in (mpcgen.diagnose, mpcgen.plot):
        with pytest.raises(ParameterError, match=r"a ClosedLoop, whose plans are not kept.*mpc\(loop.x"):
            look(loop)


def test_mistakes_are_named(pendulum):
    mpc, x0 = pendulum.mpc(), pendulum.starts(2, 0)
    with pytest.raises(ParameterError, match="steps=0"):
        mpc.closed_loop(x0, 0)
    with pytest.raises(ShapeError, match=r"mass has values for 3 steps; the loop has 5"):
        mpc.closed_loop(x0, STEPS, mass=mpcgen.PerStep([1.0, 1.0, 1.0]))
    with pytest.raises(ShapeError, match=r"disturbance has shape \(4, 3\)"):
        mpc.closed_loop(x0, STEPS, disturbance=torch.zeros(4, 3, dtype=F64))
    with pytest.raises(ShapeError, match=r"do not broadcast: \(2,\), \(3,\)"):
        mpc.closed_loop(x0, STEPS, disturbance=torch.zeros(3, STEPS, 3, dtype=F64))
    with pytest.raises(ParameterError, match="plant= this MPC gives it others"):
        mpc.closed_loop(x0, STEPS, plant_parameters={"mass": 1.0})
    with pytest.raises(ParameterError, match="plant_parameters is a list; a mapping"):
        mpc.closed_loop(x0, STEPS, plant=mpc, plant_parameters=[1.0])
    with pytest.raises(ParameterError, match=r"PerStep\(1.0\): a value for each step"):
        mpc.closed_loop(x0, STEPS, mass=mpcgen.PerStep(1.0))
    with pytest.raises(ParameterError, match="plant is a int"):
        mpc.closed_loop(x0, STEPS, plant=3)
    with pytest.raises(ParameterError, match=r"plant is a module; its MPC\(\)"):
        mpc.closed_loop(x0, STEPS, plant=pendulum.module)
    with pytest.raises(ShapeError, match=r"the plant returns torch.float64 of shape \(2, 1\)"):
        mpc.closed_loop(x0, STEPS, plant=lambda x, u: u)
    with pytest.raises(DtypeError, match="the plant returns a Step"):
        mpc.closed_loop(x0, STEPS, plant=mpc.step)
    with pytest.raises(ParameterError, match="without restarts=2"):
        pendulum.module.MPC(restarts=2).closed_loop(x0, STEPS)


def test_a_parameter_named_like_an_argument_of_the_loop_is_not_taken_for_it():
    problem = mpcgen.Problem("shared_names", horizon=3)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    problem.dynamics = [x + u + problem.parameter("disturbance", default=0.0)]
    problem.stage_cost, problem.terminal_cost = x**2 + u**2, x**2
    mpc = mpcgen.compile(problem, dtypes=F64).MPC()
    x0 = torch.ones(1, 1, dtype=F64)
    assert mpc.closed_loop(x0, 2).x.shape == (1, 3, 1)
    with pytest.raises(ParameterError, match="disturbance= is an argument of closed_loop and a parameter"):
        mpc.closed_loop(x0, 2, disturbance=torch.zeros(2, 1, dtype=F64))
