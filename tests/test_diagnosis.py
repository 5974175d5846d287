"""The report and the picture of a solution, and where warnings point."""

import io
import linecache
import math
import sys
import warnings

import pytest
import torch
from controllers import Example, scalar_problem
from torch import Tensor

import mpcgen
from mpcgen.diagnosis import PlotUnavailableError
from mpcgen.errors import ShapeError
from mpcgen.runtime.status import UnconvergedWarning

Status = mpcgen.Status


@pytest.fixture(scope="module")
def scalar() -> Example:
    return scalar_problem()


def start(*values: float) -> Tensor:
    """(len(values), 1) initial states of the scalar problem."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


# --- the report ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(scalar) -> object:
    """A (2, 3) batch: converged but [0, 2] INVALID_INPUT and [1, 0] DIVERGED."""
    x0 = start(0.1, -0.4, math.nan, 30.0, 1.5, 1.9).reshape(2, 3, 1)
    growth = torch.tensor([[0, 0, 0], [1, 0, 0]], dtype=torch.float64)
    return scalar.mpc(on_unconverged="ignore")(x0, growth=growth)


def test_the_report_counts_statuses_and_names_the_worst(mixed):
    report = mpcgen.diagnose(mixed)
    counts = {entry.status: entry.count for entry in report.statuses}
    assert counts == {Status.CONVERGED: 4, Status.INVALID_INPUT: 1, Status.DIVERGED: 1}
    assert [(o.index, o.status) for o in report.worst] == [
        ((0, 2), Status.INVALID_INPUT),
        ((1, 0), Status.DIVERGED),
    ]
    text = str(report)
    for part in ("scalar_problem: 6 problems, batch 2 x 3, N = 12, float64", "[0, 2]", "[1, 0]"):
        assert part in text
    for status in (Status.INVALID_INPUT, Status.DIVERGED):
        assert status.meaning in text and status.advice in text
    assert Status.STALLED.meaning not in text


def test_the_report_is_printed_and_returned(mixed, capsys):
    report = mpcgen.diagnose(mixed)
    assert capsys.readouterr().out == f"{report}\n"
    file = io.StringIO()
    mpcgen.diagnose(mixed, file=file)
    assert (file.getvalue(), capsys.readouterr().out) == (f"{report}\n", "")
    assert repr(report) == f"<{str(report).splitlines()[0]}>"


def test_the_worst_problems_have_the_largest_residuals(cartpole):
    solution = cartpole.mpc(max_iterations=4, on_unconverged="ignore")(cartpole.starts(64, 0))
    report = mpcgen.diagnose(solution)
    late = solution.residual[solution.status != Status.CONVERGED].sort(descending=True).values
    assert [o.residual for o in report.worst] == late[:5].tolist()
    assert all(solution.residual[o.index] == o.residual for o in report.worst)
    assert report.residual.most == solution.residual.max() and report.iterations.most == 4
    ordered = solution.residual.sort().values
    assert report.residual.median in ordered[31:33] and report.residual.nine_tenths in ordered[56:59]
    late = solution.status == Status.MAX_ITERATIONS
    near = int((late & (solution.residual < 1e-4)).sum())
    assert {lack.what: lack.count for lack in report.lacking} == {
        "a few iterations": near,
        "progress in cost": int(late.sum()) - near,
    }
    assert "MPC(max_iterations=20), else MPC(restarts=8)" in str(report)


def test_the_report_says_which_bound_is_nearest_to_switching(car):
    solution = car.mpc()(car.starts(64, 0).reshape(16, 4, 4))
    report = mpcgen.diagnose(solution)
    first = report.margins[0]
    assert first.value == solution.margin.min() == solution.margin[first.index]
    control = ("acceleration", "steering").index(first.control)
    assert solution.margins[(*first.index, first.stage, control)] == first.value
    assert solution.active[(*first.index, first.stage, control)] == first.active
    assert [m.value for m in report.margins] == solution.margin.flatten().sort().values[:5].tolist()
    assert [a.control for a in report.activity] == ["acceleration", "steering"]
    for i, entry in enumerate(report.activity):
        assert entry.at_lower == (solution.active[..., i] == -1).double().mean()
        assert entry.at_upper == (solution.active[..., i] == 1).double().mean()
    assert f"{first.control} at stage {first.stage}" in str(report)


def test_a_stalled_float32_batch_is_sent_to_float64(car):
    x0 = car.starts(16, 0)
    # with the exact Hessian the limit of the precision is a solution
    single = car.mpc(tol=1e-9, hessian="gauss_newton", on_unconverged="ignore")(x0.float())
    assert (single.status == Status.STALLED).sum() > 2
    (lack,) = (entry for entry in mpcgen.diagnose(single).lacking if entry.what == "precision")
    assert lack.count == (single.status == Status.STALLED).sum()
    assert "x0.double()" in lack.advice
    assert mpcgen.diagnose(car.mpc()(x0)).lacking == ()


def test_a_kink_is_pointed_out(scalar):
    # With the pull alone u = v = 0 is optimal at x = 0; a bound on v placed there is active without a force.
    given = {"v_max": torch.tensor([0.0, 1.0], dtype=torch.float64)}
    rest = torch.tensor([0.0, -0.25, 0.25], dtype=torch.float64).expand(12, 3)
    solution = scalar.mpc()(start(0.0, 0.0), u_init=rest, pull=0.0, **given)
    assert (solution.margin < 1.5e-8).tolist() == [True, False]
    assert any(
        hint.startswith("1 converged problems have a margin below 1e-08")
        for hint in mpcgen.diagnose(solution).hints
    )


def test_controls_all_at_bounds_are_pointed_out(pendulum):
    solution = pendulum.mpc()(pendulum.starts(32, 0))
    held = int((solution.active != 0).flatten(1).all(1).sum())
    assert held > 0
    assert any(
        hint.startswith(f"in {held} converged problems every") for hint in mpcgen.diagnose(solution).hints
    )


def test_a_converged_batch_needs_no_hint_and_a_batch_of_none_has_a_report(car):
    assert mpcgen.diagnose(car.mpc()(car.starts(4, 0))).hints == ()
    report = mpcgen.diagnose(car.mpc()(car.starts(2, 0)[:0]))
    assert "0 problems" in str(report) and report.statuses == ()
    assert "the problem" in str(mpcgen.diagnose(car.mpc()(car.starts(1, 0)[0])))


# --- the picture ---------------------------------------------------------------------------------------------------


def drawn(figure) -> dict[str, object]:
    """Axes by title, after drawing them, warnings being errors."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return {axes.get_title(loc="left").partition("   ")[0]: axes for axes in figure.axes}


def test_the_picture_shows_states_controls_bounds_and_convergence(car):
    solution = car.mpc(history=True)(car.starts(8, 0))
    axes = drawn(mpcgen.plot(solution, 5))
    assert list(axes) == ["x", "y", "heading", "speed", "acceleration", "steering", "cost", "KKT residual"]
    assert axes["speed"].lines[0].get_ydata().tolist() == solution.x[5, :, 3].tolist()
    steps = [p for p in axes["acceleration"].patches if hasattr(p, "get_data")]
    assert steps[0].get_data().values.tolist() == solution.u[5, :, 0].tolist()
    assert [s.get_data().values[0] for s in steps[1:]] == [-2.0, 2.0]
    count = int(solution.iterations[5]) + 1
    assert axes["cost"].lines[0].get_ydata().tolist() == solution.history.cost[5, :count].tolist()


def test_a_solution_with_a_gradient_is_drawn_without_a_warning(car):
    assert "CONVERGED" in mpcgen.plot(car.mpc()(car.starts(1, 0).requires_grad_()), 0).get_suptitle()


def test_active_spans_are_shaded_and_explained(car):
    solution = car.mpc()(car.starts(64, 0))
    b = int((solution.active[..., 1] != 0).sum(1).argmax())
    axes = drawn(mpcgen.plot(solution, b))["steering"]
    shaded = torch.zeros(60, dtype=torch.int8)
    for patch in (p for p in axes.patches if not hasattr(p, "get_data")):
        first, last = round(patch.get_x()), round(patch.get_x() + patch.get_width())
        shaded[first:last] = 1
    assert torch.equal(shaded.bool(), solution.active[b, :, 1] != 0)
    assert {t.get_text() for t in axes.get_legend().get_texts()} <= {
        "at its lower bound",
        "at its upper bound",
    }


def test_a_far_bound_is_named_instead_of_drawn(cartpole):
    figure = mpcgen.plot(cartpole.mpc()(cartpole.starts(1, 0)[0]))
    assert "(≥ -100, ≤ 100 not shown)" in " ".join(axes.get_title(loc="left") for axes in figure.axes)
    assert "MPC(history=True)" in figure.get_suptitle()


def test_any_problem_can_be_drawn(mixed):
    for index in ((0, 0), (0, 2), (1, 0), (-1, -1)):
        assert "w" in drawn(mpcgen.plot(mixed, index))


@pytest.mark.parametrize("index", [0, (2, 0), (0, 0, 0), (0, -4), ()])
def test_an_index_outside_the_batch_is_refused(mixed, index):
    with pytest.raises(ShapeError, match=r"names no problem of a batch of shape \(2, 3\)"):
        mpcgen.plot(mixed, index)


def test_without_matplotlib_the_remedy_is_named(mixed, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotUnavailableError, match=r"pip install 'mpcgen\[plot\]'"):
        mpcgen.plot(mixed, (0, 0))


# --- the warning ---------------------------------------------------------------------------------------------------


def test_the_warning_points_at_the_users_line_and_at_the_report(scalar):
    mpc = scalar.module.MPC()
    x0 = start(0.1, 30.0)

    def attached() -> None:
        mpc(x0.clone().requires_grad_(), growth=1.0)

    def nested() -> None:
        class Policy(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mpc = mpc

            def forward(self, x: Tensor) -> Tensor:
                return self.mpc(x, growth=1.0).u

        torch.nn.Sequential(torch.nn.Identity(), Policy())(x0)

    for call in (
        lambda: mpc(x0, growth=1.0),
        attached,
        nested,
        lambda: torch.vmap(lambda x: mpc(x, growth=1.0).u)(x0),
    ):
        with pytest.warns(UnconvergedWarning, match=r"mpcgen\.diagnose\(sol\)") as record:
            call()
        line = linecache.getline(record[0].filename, record[0].lineno)
        assert record[0].filename == __file__ and "mpc(x" in line


def test_the_warning_of_the_backward_pass_points_at_its_line(scalar):
    module = scalar.module.MPC(hessian="gauss_newton", gradient="gauss_newton")
    x0 = start(0.3, 0.2).requires_grad_()
    loss = module(x0, weight=0.0, sum_weight=1.0).u.sum()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        loss.backward()
    assert record[0].filename == __file__
    assert "loss.backward()" in linecache.getline(__file__, record[0].lineno)
