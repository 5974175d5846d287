"""Leading dimensions: any batch size, and broadcasting as torch does it."""

import pytest
import torch
from controllers import Example, example, leaves


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 16, 17, 1000])
def test_a_batch_of_any_size_holds_the_same_solutions(nonlinear, size):
    """Around the numbers of lanes of a vector, in either precision."""
    for dtype, close in ((torch.float64, 1e-6), (torch.float32, 1e-2)):
        x0 = nonlinear.starts(1000, 9).to(dtype)
        whole, part = nonlinear.mpc()(x0), nonlinear.mpc()(x0[:size])
        assert (part.status == 0).all()
        for name, value in vars(part).items():
            assert value.shape == (size, *getattr(whole, name).shape[1:]), name
        if size > 1:
            assert torch.equal(part.u, whole.u[:size])
        else:
            # the scalar kernel rounds differently
            torch.testing.assert_close(part.cost, whole.cost[:1], rtol=close**2, atol=close**2)


def test_an_empty_batch_gives_empty_results_and_zero_gradients(nonlinear):
    x0 = nonlinear.starts(1, 0)[:0].requires_grad_()
    values = {n: v.detach()[0].requires_grad_() for n, v in leaves(nonlinear, 1, {}).items()}
    solution = nonlinear.mpc()(x0, **values)
    n, m, horizon = len(nonlinear.spec.states), len(nonlinear.spec.controls), nonlinear.spec.horizon
    assert solution.x.shape == (0, horizon + 1, n)
    assert solution.u.shape == (0, horizon, m)
    assert solution.status.shape == solution.cost.shape == (0,)
    (solution.u.sum() + solution.cost.sum()).backward()
    assert x0.grad.shape == (0, n)
    assert all((value.grad == 0).all() for value in values.values())
    assert nonlinear.mpc()(x0.detach().reshape(0, 3, n)).x.shape == (0, 3, horizon + 1, n)


def test_a_single_problem_has_no_leading_dimensions(cartpole):
    solution = cartpole.mpc()(cartpole.starts(1, 0)[0])
    shapes = {name: tuple(value.shape) for name, value in vars(solution).items()}
    assert shapes == {
        "x": (25, 5),
        "u": (24, 1),
        "cost": (),
        "status": (),
        "iterations": (),
        "residual": (),
        "costates": (25, 5),
        "gains": (24, 1, 5),
        "row_duals": (0, 0),
        "row_violation": (0,),
    }


def grid(case: Example) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0 (3, 1, 3), gravity (1, 4) and mass (3, 4), all distinct."""
    x0 = case.starts(3, 1)[:, None]
    gravity = torch.linspace(9, 10.5, 4, dtype=torch.float64)[None]
    mass = torch.linspace(0.9, 1.1, 12, dtype=torch.float64).reshape(3, 4)
    return x0, gravity, mass


def test_leading_dimensions_broadcast_and_gradients_sum_back(pendulum):
    x0, gravity, mass = (value.requires_grad_() for value in grid(pendulum))
    q = torch.tensor([1.0, 1.0, 0.1, 0.001], dtype=torch.float64, requires_grad=True)
    u_init = torch.zeros(4, 19, 1, dtype=torch.float64)
    solution = pendulum.mpc()(x0, gravity=gravity, mass=mass, q=q, u_init=u_init)
    assert solution.u.shape == (3, 4, 19, 1)
    assert solution.cost.shape == solution.status.shape == (3, 4)
    inputs = (x0, gravity, mass, q)
    own = torch.autograd.grad((solution.u**2).sum(), inputs)
    full = [value.detach().expand(3, 4, *value.shape[2:]) for value in (x0, gravity, mass)]
    full = [value.reshape(12, *value.shape[2:]).clone().requires_grad_() for value in full]
    each = q.detach().expand(12, 4).clone().requires_grad_()
    flat = pendulum.mpc()(full[0], gravity=full[1], mass=full[2], q=each)
    assert torch.equal(flat.u.reshape(3, 4, 19, 1), solution.u)
    apart = torch.autograd.grad((flat.u**2).sum(), (*full, each))
    torch.testing.assert_close(own[0], apart[0].reshape(3, 4, 3).sum(1, keepdim=True))
    torch.testing.assert_close(own[1], apart[1].reshape(3, 4).sum(0, keepdim=True))
    assert torch.equal(own[2], apart[2].reshape(3, 4))
    torch.testing.assert_close(own[3], apart[3].sum(0))


def test_a_batch_of_parameters_from_a_single_start(pendulum):
    x0 = pendulum.starts(1, 1)[0].requires_grad_()
    solution = pendulum.mpc()(x0, gravity=torch.linspace(9, 11, 5, dtype=torch.float64))
    assert solution.u.shape == (5, 19, 1)
    solution.u.sum().backward()
    assert x0.grad.shape == (3,)


def test_numbers_lists_and_tensors_are_the_same_value(pendulum):
    x0 = pendulum.starts(2, 1)
    reference = pendulum.mpc()(x0, gravity=9.5, q=[1.0, 0.5, 0.1, 0.01])
    tensors = {
        "gravity": torch.tensor(9.5, dtype=torch.float64),
        "q": torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64),
    }
    assert torch.equal(pendulum.mpc()(x0, **tensors).u, reference.u)


@pytest.mark.parametrize("change", ["transposed", "strided", "expanded"])
def test_the_layout_in_memory_does_not_matter(change):
    case = example("cartpole")
    x0 = case.starts(8, 1)
    given = {
        "transposed": x0.T.contiguous().T,
        "strided": x0.repeat_interleave(2, 0)[::2],
        "expanded": x0[:1].expand(8, 5),
    }[change]
    assert not given.is_contiguous()
    assert torch.equal(case.mpc()(given).u, case.mpc()(given.contiguous()).u)
