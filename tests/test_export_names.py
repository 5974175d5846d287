"""Exported controllers whose names C has for something else, and exports that are refused."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mpcgen
from mpcgen.cli import main
from mpcgen.errors import SpecError
from mpcgen.export import export, export_library
from mpcgen.export.check import check, solve_exported

PENDULUM = Path(__file__).parents[1] / "examples" / "pendulum.py"


def _smallest(name, parameters=()):
    problem = mpcgen.Problem(name, horizon=1)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    weights = [problem.parameter(parameter, default=1e39) for parameter in parameters]
    problem.dynamics = [x + u]
    problem.stage_cost = u**2 + sum(u**2 / weight for weight in weights)
    problem.terminal_cost = (x - 1) ** 2
    return problem


@pytest.mark.parametrize("name", ["example", "count", "stdint", "double", "_mpcgen"])
def test_problems_called_as_the_files_beside_them_or_as_c_words(name, tmp_path):
    out = export(_smallest(name), tmp_path, dtype="float64")
    _, u, status, _ = solve_exported(out, np.zeros((1, 1)), {})
    assert status[0] == mpcgen.Status.CONVERGED
    assert u[0, 0, 0] == pytest.approx(0.5)


def test_a_default_beyond_float32_is_infinite_there(tmp_path):
    out = export(_smallest("far", ["weight"]), tmp_path)
    assert "controller->parameters.weight = INFINITY;" in out.source.read_text()
    _, _, status, _ = solve_exported(out, np.zeros((1, 1), np.float32), {})
    assert status[0] == mpcgen.Status.INVALID_INPUT


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ not installed")
def test_parameters_called_as_what_the_header_for_cplusplus_uses(tmp_path):
    names = ["Number", "std", "Parameters", "batch", "values", "s"]
    files = export_library(_smallest("named", names), tmp_path)
    assert "example.cpp" in files
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
    command = ["g++", *flags, f"-I{tmp_path / 'include'}", tmp_path / "example.cpp"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["double", "install"])
def test_a_library_is_called_no_word_and_no_target(name, tmp_path):
    with pytest.raises(SpecError, match=f"{name}_mpc"):
        export_library(_smallest(name), tmp_path)


def test_checks_to_the_bit_are_refused_where_bits_differ_rightly(tmp_path):
    problem = _smallest("fixed", ["weight"])
    fixed = export(problem, tmp_path / "fixed", dtype="float64", constants=["weight"])
    with pytest.raises(SpecError, match="weight of 'fixed' are constants"):
        check(fixed, problem.spec(), np.zeros((1, 1)))
    command = ["export", str(PENDULUM), "-o", str(tmp_path / "x"), "--method", "interior_point", "--check"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert "polishes" in refused.output
    assert not (tmp_path / "x").exists()


def test_a_cmake_package_has_no_options(tmp_path):
    refused = CliRunner().invoke(
        main, ["export", str(PENDULUM), "-o", str(tmp_path / "x"), "--cmake", "--dtype", "float32"]
    )
    assert refused.exit_code == 2
    assert "--cmake goes without --dtype" in refused.output


AMBIGUOUS = """
#include <cstdio>
#include <stdexcept>
#include "goals.hpp"
extern "C" int goals_solve_f64_batch(const goals_solve_arguments *a) {
  std::printf("%d ", a->parameter_strides[0] != 0);
  return 0;
}
extern "C" int goals_solve_f32_batch(const goals_solve_arguments *) { return 0; }
static void solve(std::size_t batch, std::size_t count) {
  const std::vector<double> x0(batch);
  goals::Parameters<double> parameters;
  parameters.goal.assign(count, 1.0);
  try {
    goals::solve<double>(x0, parameters);
  } catch (const std::invalid_argument &) {
    std::printf("refused ");
  }
}
int main() { solve(2, 3), solve(2, 2), solve(3, 1), solve(3, 3), solve(3, 9); }
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ not installed")
def test_numbers_that_could_be_of_stages_or_of_problems_are_refused(tmp_path):
    problem = mpcgen.Problem("goals", horizon=3)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    goal = problem.parameter("goal", per_stage=True)
    problem.dynamics = [x + u]
    problem.stage_cost = (x - goal) ** 2 + u**2
    problem.terminal_cost = x**2
    export_library(problem, tmp_path)
    (tmp_path / "main.cpp").write_text(AMBIGUOUS)
    command = ["g++", "-std=c++17", "-Iinclude", "main.cpp", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    ran = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert ran.stdout == "0 1 0 refused 1 "
