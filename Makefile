# make demo    derive, build, solve, differentiate and learn: the tour
# make measure what must hold, beside what this machine gives
# make bench   the solvers timed over problems, batches and precisions, beside their peers; examples/bench/
# make gallery hard problems from many starts beside IPOPT: how many each solver solves; an hour
# make gradient-accuracy  the paper's gradient beside the exact one
# make measure-torch      call overhead, memory and Jacobians through torch
# make paper   every experiment of the paper, resumable; examples/paper/
# make docs    the guide as a site, offline: docs/_build/html
# make test    lint, types and the whole test suite
# make test-zig  statuses and gradients of two examples by pip's C compiler
# make wheels  sdist and wheel, installed and used in fresh environments of Python 3.11, 3.12 and 3.13
# make golden  write the committed text of generated/ anew
#
# On Linux, pip's default torch is the large CUDA build. For the CPU build of the same version:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

DEMO_EXAMPLES := pendulum cartpole obstacle
EXAMPLES := $(DEMO_EXAMPLES) car lqr quadrotor chain landing safe_cartpole building minimum_time cstr arm

.PHONY: demo docs measure bench gallery gradient-accuracy measure-torch paper test test-zig wheels golden lint clean

demo: $(addprefix build-,$(DEMO_EXAMPLES))
	$(BIN)/python -m examples.demo

measure: $(addprefix build-,pendulum cartpole car)
	$(BIN)/python -m examples.measure

bench: $(READY)
	$(BIN)/mpcgen bench $(BENCH_FLAGS)

gallery: $(READY)
	$(BIN)/mpcgen bench --gallery $(GALLERY_FLAGS)

gradient-accuracy: $(READY)
	$(BIN)/python -m examples.gradient_accuracy

measure-torch: $(addprefix build-,pendulum cartpole)
	$(BIN)/python -m examples.measure_torch

paper: $(READY)
	$(BIN)/python -m examples.paper

# What solver and gradients must do, whatever the kernels: CUDA's, over their shim, do it too. The searches over random
# problems and starts are about the mathematics, which the kernels share, and run once; the quadrotor compiles longest.
KERNEL_TESTS := $(patsubst %,tests/test_%.py,solver statuses gradients forward_mode shared_parameters barrier smoothing \
	batches examination functional interior_point constrained_solutions)

# Of these, what is about torch rather than about the kernels runs on one kind of them.
WARP_TESTS := $(filter-out $(patsubst %,tests/test_%.py,functional shared_parameters smoothing),$(KERNEL_TESTS))

# What compiles the kernels: clang, where there is one, does it too, besides compiling the examples without a warning.
# What its code computes, `make test-zig` tells: zig compiles by clang.
CLANG_TESTS := $(patsubst %,tests/test_%.py,build box_qp_in_c operations_in_c)

# The committed text is compared before the builds write over it.
test: lint
	$(BIN)/python -m pytest tests/test_golden.py
	$(MAKE) $(addprefix build-,pendulum cartpole car lqr)
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/test_golden.py
	MPCGEN_TEST_KERNELS=cuda-host MPCGEN_TEST_CUDA_KERNEL=thread $(BIN)/python -m pytest -n 2 --dist worksteal \
	-k "not random_starts and not quadrotor" $(KERNEL_TESTS)
	MPCGEN_TEST_KERNELS=cuda-host MPCGEN_TEST_CUDA_KERNEL=warp $(BIN)/python -m pytest -n 2 --dist worksteal \
	-k "not random_starts and not quadrotor" $(WARP_TESTS)
	if command -v clang > /dev/null; then CC=clang $(BIN)/python -m pytest -n 2 --dist worksteal $(CLANG_TESTS); \
	else echo "clang is not installed, and its part of the tests left out"; fi
	$(MAKE) test-zig

# Pip's compiler in place of gcc, on two examples.
test-zig: $(READY)
	CC="$(abspath $(BIN))/python -m ziglang cc" $(BIN)/python -m pytest -n 2 --dist worksteal \
	tests/test_statuses.py tests/test_gradients.py -k "pendulum or cartpole"

docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# Minutes and gigabytes: environments of several Pythons, each with a torch of its own.
wheels:
	bash tests/wheels.sh

golden: $(addprefix build-,$(EXAMPLES))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An unchanged example takes under a second, so mpcgen itself decides what is up to date.
build-%: $(READY)
	$(BIN)/mpcgen build examples/$*.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mpcgen needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
	rm -f generated/*/*.json generated/*/_*.so generated/*/_*_interface.py
