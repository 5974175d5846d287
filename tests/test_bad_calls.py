"""Wrong calls get a typed error that names the culprit and the remedy, before any kernel runs."""

import numpy as np
import pytest
import torch
from controllers import Example

from mpcgen.calls.devices import Cpu
from mpcgen.errors import (
    DeviceError,
    DtypeError,
    MpcgenError,
    ParameterError,
    ShapeError,
    UnconvergedError,
)
from mpcgen.runtime.status import UnconvergedWarning


class KernelRanError(Exception):
    """A compiled function was reached."""


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KernelRanError

    monkeypatch.setattr(Cpu, "entry", refuse)


def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def test_the_guard_sees_a_kernel_run(pendulum, no_kernels):
    with pytest.raises(KernelRanError):
        pendulum.mpc()(zeros(2, 3))


BAD = {
    "a state too few": (
        ShapeError,
        {"x0": zeros(2, 2)},
        r"x0 has shape \(2, 2\).*\(\.\.\., 3\).*cos_theta, sin_theta, omega",
    ),
    "a scalar start": (ShapeError, {"x0": zeros()}, r"x0 has shape \(\)"),
    "a wrong parameter shape": (ShapeError, {"q": zeros(3)}, r"q has shape \(3,\); \(\.\.\., 4\)"),
    "a number for a vector": (ShapeError, {"q": 1.0}, r"q has shape \(\)"),
    "batches that do not fit": (
        ShapeError,
        {"gravity": zeros(3)},
        r"do not broadcast: x0 \(2,\), gravity \(3,\)",
    ),
    "a u_init for two controls": (ShapeError, {"u_init": zeros(19, 2)}, r"u_init has shape \(19, 2\)"),
    "a u_init of another horizon": (
        ShapeError,
        {"u_init": zeros(18, 1), "horizon": 19},
        r"u_init has shape \(18, 1\); \(\.\.\., 19, 1\)",
    ),
    "a u_init batch that does not fit": (ShapeError, {"u_init": zeros(3, 19, 1)}, r"u_init \(3,\)"),
    "a list as start": (DtypeError, {"x0": [0.0, 0.0, 0.0]}, "x0 is a list"),
    "integers": (DtypeError, {"x0": torch.zeros(2, 3, dtype=torch.int64)}, r"torch\.int64.*x0\.double\(\)"),
    "half precision": (DtypeError, {"x0": zeros(2, 3, dtype=torch.float16)}, "float16"),
    "complex numbers": (DtypeError, {"x0": zeros(2, 3, dtype=torch.complex128)}, "complex128"),
    "two precisions": (
        DtypeError,
        {"gravity": zeros(dtype=torch.float32)},
        r"gravity is torch\.float32, but x0 is torch\.float64",
    ),
    "a u_init of the other precision": (DtypeError, {"u_init": zeros(19, 1, dtype=torch.float32)}, "u_init"),
    "a list as u_init": (DtypeError, {"u_init": [[0.0]] * 19}, "u_init is a list"),
    "another device": (DeviceError, {"x0": torch.zeros(2, 3, device="meta").double()}, "x0 is on meta"),
    "a parameter on another device": (
        DeviceError,
        {"gravity": torch.tensor(9.0, dtype=torch.float64, device="meta")},
        "gravity is on meta, but x0 is on cpu",
    ),
    "a misspelt parameter": (ParameterError, {"gravty": 9.0}, "'gravty'; did you mean 'gravity'"),
    "an unknown parameter": (
        ParameterError,
        {"wingspan": 9.0},
        "its parameters are gravity, mass, length, q, p",
    ),
    "a word for a number": (ParameterError, {"gravity": "earth"}, "gravity='earth'"),
    "a ragged list": (ParameterError, {"q": [[1.0], [1.0, 2.0]]}, "q="),
    "no horizon": (ParameterError, {"horizon": 0}, "horizon=0"),
    "half a horizon": (ParameterError, {"horizon": 2.5}, r"horizon=2\.5"),
    "a whole number of the wrong type": (
        ParameterError,
        {"horizon": np.float64(4)},
        r"horizon=np\.float64\(4\.0\); a whole number",
    ),
    "no start": (DtypeError, {"x0": None}, "x0 is a NoneType; pass a torch tensor"),
    "an option of the controller": (
        ParameterError,
        {"on_unconverged": "raise"},
        r"no parameter 'on_unconverged'; it is an option of the controller, MPC\(on_unconverged=",
    ),
    "bounds that are no parameters": (
        ParameterError,
        {"lower": -1.0},
        r"no parameter 'lower'; bounds .*problem\.parameter\('lower'\)",
    ),
    "a number too large for any float": (ParameterError, {"gravity": 10**400}, "gravity=1000"),
    "a truth as horizon": (ParameterError, {"horizon": True}, "horizon=True"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_argument_is_named_before_any_kernel_runs(pendulum, no_kernels, case):
    error, given, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        pendulum.mpc()(**{"x0": zeros(2, 3), **given})
    assert isinstance(caught.value, MpcgenError)
    assert "pendulum" in str(caught.value)


def test_what_comes_by_position_is_asked_for_by_name(pendulum, no_kernels):
    with pytest.raises(ParameterError, match=r"1 more than x0 given by position.*u_init=u.*gravity=\.\.\."):
        pendulum.mpc()(zeros(2, 3), zeros(19, 1))
    with pytest.raises(DtypeError, match="x0 is a NoneType"):
        pendulum.mpc()()


def test_whole_numbers_of_numpy_are_whole_numbers(pendulum):
    x0, mpc = pendulum.starts(2, 0), pendulum.mpc(max_iterations=np.int32(150), tol=np.float32(0.5) ** 30)
    assert torch.equal(mpc(x0, horizon=np.int64(4)).u, mpc(x0, horizon=4).u)
    assert (type(mpc.options.max_iterations), type(mpc.options.tol)) == (int, float)
    assert torch.equal(mpc(x0.requires_grad_(), horizon=np.int64(4)).u, mpc(x0, horizon=4).u)


def test_a_list_of_tensors_keeps_their_gradients(pendulum):
    x0, weight = pendulum.starts(2, 0), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    listed = pendulum.mpc()(x0, q=[1.0, 1, weight, 0.001]).cost.sum()
    q = torch.stack([torch.ones_like(weight), torch.ones_like(weight), weight, 0.01 * weight.detach()])
    stacked = pendulum.mpc()(x0, q=q).cost.sum()
    assert torch.equal(*(torch.autograd.grad(cost, weight)[0] for cost in (listed, stacked)))


def test_parameters_without_default_are_asked_for(lqr, no_kernels):
    with pytest.raises(ParameterError, match=r"'C' of shape \(6, 6\) has no default; pass C="):
        lqr.mpc()(zeros(2, 3))


def test_per_stage_values_must_agree_on_the_horizon(lqr, no_kernels):
    given = lqr.values(0)
    with pytest.raises(ShapeError, match=r"F has shape \(4, 3, 6\).*\(\.\.\., 5, 3, 6\)"):
        lqr.mpc()(zeros(2, 3), **{**given, "F": given["F"][:4]})
    with pytest.raises(ShapeError, match="C has shape"):
        lqr.mpc()(zeros(2, 3), **given, horizon=4)
    with pytest.raises(ShapeError, match=r"lower has shape \(2, 3\); .* or \(3,\), the same for all stages"):
        lqr.mpc()(zeros(2, 3), **given, lower=zeros(2, 3), horizon=5)


@pytest.mark.parametrize("leading", [(), (2,)])
def test_a_value_for_each_control_is_one_too_few_where_the_terminal_cost_needs_its_own(
    lqr, no_kernels, leading
):
    """C is read by the terminal cost: the spec's horizon 5 needs 6 values, and 5 are no reason to solve for 4."""
    given = lqr.values(0)
    short = {**given, "C": given["C"][:5].expand(*leading, 5, 6, 6)}
    message = (
        r"5 values along the axis of stages, where the horizon 5 needs 6.*the last for the terminal cost"
    )
    for horizon in ({}, {"horizon": 5}, {"u_init": zeros(5, 3)}):
        with pytest.raises(ShapeError, match=message):
            lqr.mpc()(zeros(2, 3), **short, **horizon)
    four = {name: value[: -1 if name == "C" else 4] for name, value in given.items() if name != "c"}
    for horizon in ({"horizon": 4}, {"u_init": zeros(4, 3)}):
        with pytest.raises(KernelRanError):
            lqr.mpc()(zeros(2, 3), **four, c=given["c"][:5], **horizon)


OPTIONS = {
    "hessian": ("newton", "'exact', 'gauss_newton'"),
    "gradient": (None, "'exact', 'gauss_newton'"),
    "on_unconverged": ("shout", "'warn', 'raise', 'ignore'"),
    "unconverged_gradient": (0.0, "'zero', 'keep', 'nan'"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_outside_its_choices_lists_them(pendulum, name):
    value, choices = OPTIONS[name]
    with pytest.raises(ParameterError, match=f"{name}={value!r}; expected one of .*{choices}"):
        pendulum.module.MPC(**{name: value})


@pytest.mark.parametrize("value", [0.0, -1e-8, float("nan"), float("inf"), "small"])
def test_a_tolerance_is_a_positive_number(pendulum, value):
    with pytest.raises(ParameterError, match="tol="):
        pendulum.module.MPC(tol=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_iterations", -1),
        ("max_iterations", 2.0),
        ("max_iterations", True),
        ("threads", 0),
        ("threads", 1.5),
    ],
)
def test_counts_are_whole_numbers(pendulum, name, value):
    with pytest.raises(ParameterError, match=f"{name}={value!r}; a whole number"):
        pendulum.module.MPC(**{name: value})


@pytest.mark.parametrize(
    ("given", "near"), [("tolerance", "tol"), ("max_iter", "max_iterations"), ("num_threads", "threads")]
)
def test_an_unknown_option_is_answered_with_the_nearest(pendulum, given, near):
    with pytest.raises(
        ParameterError, match=f"no option {given!r}; did you mean {near!r}.*options are tol, "
    ):
        pendulum.module.MPC(**{given: 8})


def test_an_unknown_option_near_to_none_is_answered_with_all(pendulum):
    with pytest.raises(ParameterError, match=r"no option 'zzz'; its options are tol, .*initial$"):
        pendulum.module.MPC(zzz=8)


def late(case: Example, how: str) -> torch.Tensor:
    """Status of problems that a single pass cannot solve."""
    return case.module.MPC(max_iterations=1, on_unconverged=how)(case.starts(4, 0)).status


def test_unconverged_problems_are_warned_about_raised_or_passed_over(cartpole):
    with pytest.warns(UnconvergedWarning, match=r"cartpole: 4 of 4 problems.*MAX_ITERATIONS"):
        assert (late(cartpole, "warn") != 0).all()
    with pytest.raises(UnconvergedError, match=r"4 of 4 problems.*raise max_iterations"):
        late(cartpole, "raise")
    assert (late(cartpole, "ignore") != 0).all(), "and nothing is said: a warning would be an error here"
