"""`mpcgen inspect`: what it says about a problem is so, and every stage of the pipeline prints itself."""

from pathlib import Path

import pytest

import mpcgen
from mpcgen.codegen.overview import WIDTH
from mpcgen.compiler import STAGES, Compilation, inspect, render_spec
from mpcgen.errors import SpecError
from mpcgen.ir import flops

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("pendulum", "cartpole", "car", "lqr", "quadrotor")


def specification(name):
    return mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()


@pytest.fixture(scope="module")
def car():
    return specification("car")


def drawing(text, title):
    """Marks of the matrix under a title, row by row, and the rows' names."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"  {title}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.strip():
            break
        rows.append(line.split())
    marks = ["".join(mark for mark in row[2:] if mark != "|") for row in rows]
    return marks, [row[1] for row in rows]


def test_sizes_parameters_and_integrator_of_a_problem(car):
    text = inspect(car)
    for fact in (
        "problem car",
        "states      4   x, y, heading, speed",
        "controls    2   -2 <= acceleration <= 2, -0.5 <= steering <= 0.5",
        "5 named, 12 numbers",
        "1 step of midpoint over dt = 0.1",
    ):
        assert fact in text
    rows = {line.split()[0]: line.split()[-1] for line in text.splitlines() if "theta[" in line}
    assert rows == {
        "wheelbase": "theta[0]",
        "stage_weight": "theta[1:5]",
        "terminal_weight": "theta[5:9]",
        "control_weight": "theta[9:11]",
        "width": "theta[11]",
    }


def test_parameters_per_stage_say_how_many_and_which_may_be_infinite():
    rows = {
        line.split()[0]: line for line in inspect(specification("lqr")).splitlines() if "theta_stage[" in line
    }
    assert "N stages, may be infinite" in rows["lower"]
    assert "N+1 stages, required" in rows["C"]
    assert rows["f"].endswith("N stages")


def test_sparsity_of_the_jacobian(car):
    """The next x is x + dt v cos(heading): from x itself 1, from y nothing."""
    marks, names = drawing(inspect(car), "F = df/d(x, u)")
    assert names == ["x_next", "y_next", "heading_next", "speed_next"]
    assert marks == ["1.xxxx", ".1xxxx", "..1xxx", "...1x."]


def test_sparsity_of_the_hessians(car):
    text = inspect(car)
    marks, names = drawing(text, "Hessian of the stage cost")
    assert names == ["x", "y", "heading", "speed", "acceleration", "steering"]
    assert marks == ["x.....", ".x....", "..x...", "...x..", "....x.", ".....x"]
    marks, _ = drawing(text, "Hessian of the Lagrangian")
    assert marks == ["x.....", ".x....", "..xxxx", "..xxxx", "..xxxx", "..xxxx"]
    marks, _ = drawing(text, "Hessian of the terminal cost")
    assert marks == ["x...", ".x..", "..x.", "...x"]


def test_large_diagonal_matrices_are_said_not_drawn():
    text = inspect(specification("quadrotor"))
    assert "Hessian of the stage cost: 17 of 289 entries nonzero, all on the diagonal" in text
    assert "F = df/d(x, u): 140 of 221 entries nonzero" in text


def test_operations_of_every_function_and_the_largest_by_kind(car):
    text = inspect(car)
    functions = Compilation(car).passes.functions
    counts = {function.name: flops(function.expressions()) for function in functions}
    lines = [line.split() for line in text.splitlines()]
    for name, count in counts.items():
        assert [name, f"{count:,}"] in lines
    largest = max(counts, key=counts.get)
    by_kind = text.split(f"{largest} by kind:")[1].split("\n\n")[0].split()
    assert sum(int(number.replace(",", "")) for number in by_kind[::2]) == counts[largest]


def test_riccati_products_are_unrolled_or_loops_and_why(car):
    # columns of F with 0, 0, 2, 3, 3, 3 varying and 1, 1, 3, 4, 4, 3 nonzero entries: VF takes 4 (2+3+3+3),
    # the lower triangle of F'(VF) 2*3 + 3*4 + 3*5 + 3*6, and F'v 16
    assert f"unrolled into the stage functions: F'VF takes {44 + 51 + 16} products" in inspect(car)
    text = inspect(mpcgen.lqr(20, 4).spec())
    assert "by loops" in text
    assert "F = df/d(x, u): 480 of 480 entries nonzero: dense" in text


def test_text_sizes(car):
    lines = [line.split() for line in inspect(car).splitlines()]
    for file, text in render_spec(car).files:
        assert [file, f"{text.count(chr(10)):,}", "lines", f"{len(text) / 1024:.1f}", "KiB"] in lines


@pytest.mark.parametrize("name", NAMES)
def test_fits_a_terminal(name):
    lines = inspect(specification(name)).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert not any(line != line.rstrip() or "\x1b" in line for line in lines)


@pytest.mark.parametrize(
    ("stage", "excerpt"),
    [
        ("spec", "midpoint, dt = 0.1"),
        ("graph", "steering_upper = 0.5"),
        ("derived", "stage_expand_exact(x(4), u(2), theta(12), theta_t(0), weight(1), costate(4)"),
        ("passes", "prepare_parameters(theta(12)): what the stages need"),
        ("schedule", "tan_steering = tan(steering)"),
        ("rendered", "const real tan_steering = lane_tan(steering);"),
    ],
)
def test_every_stage_prints_its_value(car, stage, excerpt):
    assert stage in STAGES
    assert excerpt in inspect(car, stage)


def test_an_unknown_stage_is_refused_with_the_known_ones(car):
    with pytest.raises(SpecError, match=r"'parsed'.*spec, graph, derived, passes, schedule, rendered"):
        inspect(car, "parsed")
