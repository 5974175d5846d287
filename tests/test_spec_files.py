"""Files that are no specification: a typed error that names the file and the line."""

import pytest
from drafts import refused

import mpcgen


def test_a_missing_file(tmp_path):
    with refused("nowhere.py", "not a file"):
        mpcgen.load_problem(tmp_path / "nowhere.py")


def test_a_folder_is_not_a_specification(tmp_path):
    with refused("not a file"):
        mpcgen.load_problem(tmp_path)


@pytest.mark.parametrize("content", [b"problem = = 3", b"\x00\xff", b"int main(void) { return 0; }"])
def test_a_file_that_is_not_python(tmp_path, content):
    path = tmp_path / "spec.py"
    path.write_bytes(content)
    with refused("spec.py", "not Python"):
        mpcgen.load_problem(path)


def test_a_file_without_a_problem(tmp_path):
    path = tmp_path / "spec.py"
    path.write_text("x = 3\n")
    with refused("spec.py", "no mpcgen.Problem"):
        mpcgen.load_problem(path)


def test_a_file_with_several_problems(tmp_path):
    path = tmp_path / "spec.py"
    path.write_text("import mpcgen\na = mpcgen.Problem('first', 1)\nb = mpcgen.Problem('second', 1)\n")
    with refused("2 Problems", "a ('first')", "b ('second')"):
        mpcgen.load_problem(path)


def test_an_exception_inside_the_file_is_chained_and_located(tmp_path):
    path = tmp_path / "spec.py"
    path.write_text("x = 1\ny = x / 0\n")
    with refused("spec.py:2", "ZeroDivisionError") as caught:
        mpcgen.load_problem(path)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("call", ["math.sin(u)", "numpy.sin(u)", "numpy.sin(numpy.array([u, 1]))"])
def test_a_function_of_math_or_numpy_of_a_symbol_is_told_of_sympys(tmp_path, call):
    path = tmp_path / "spec.py"
    path.write_text(f"import math, mpcgen, numpy\np = mpcgen.Problem('p', 1)\nu, = p.controls('u')\n{call}\n")
    with refused("spec.py:4", "TypeError", "sympy.sin"):
        mpcgen.load_problem(path)


def test_a_specification_error_inside_the_file_keeps_its_type_and_gains_its_line(tmp_path):
    path = tmp_path / "spec.py"
    path.write_text("import mpcgen, sympy\np = mpcgen.Problem('p', 1)\np.states('lambda')\n")
    with refused("spec.py:3", "'lambda'", "Python keyword"):
        mpcgen.load_problem(path)
