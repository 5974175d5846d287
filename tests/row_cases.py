"""The generated functions of a constrained problem, compiled; CasADi's of the same specification; a random point."""

import ctypes
import subprocess

import casadi as ca
import numpy as np

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.translate import Translator
from mpcgen.build.extension import HEADER_FOLDER, VARIANTS, write_sources
from mpcgen.build.toolchain import find_toolchain
from mpcgen.compiler import Compilation
from mpcgen.derivative.kernels import FUSED_LIMIT

SINGLE = dict(VARIANTS)["f64_single"]


class Compiled:
    """The problem's functions by name: flat arrays in, flat arrays out, by the names of their C parameters."""

    def __init__(self, make, looped, folder):
        self.spec = make().spec()
        steps = Compilation(self.spec, -1 if looped else FUSED_LIMIT)
        self.kernels, rendered = steps.derived, steps.rendered
        write_sources(rendered, folder)
        problem_text, _, _ = rendered.source.partition("/* ---- the algorithms")
        (folder / "functions.c").write_text(problem_text + WRAPPERS)
        toolchain = find_toolchain()
        command = [*toolchain.compiler.command, *toolchain.compile_flags, "-O0", "-fvisibility=default"]
        command += [
            "-Wall",
            "-Wextra",
            "-Wconversion",
            "-Wno-unused-function",
            "-Wno-unused-const-variable",
            "-Werror",
        ]
        command += [*SINGLE, "-I.", f"-I{HEADER_FOLDER}"]
        command += ["-shared", "functions.c", "-o", "functions.so", *toolchain.libraries]
        subprocess.run(command, cwd=folder, check=True)
        self.library = ctypes.CDLL(str(folder / "functions.so"))
        self.model = self.kernels.model

    def __call__(self, name, *inputs, sizes):
        arrays = [np.ascontiguousarray(np.atleast_1d(array), dtype=float) for array in inputs]
        outputs = [np.zeros(max(size, 1)) for size in sizes]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, *outputs)]
        getattr(self.library, f"call_{name}")(*pointers)
        return [output[:size] for output, size in zip(outputs, sizes, strict=True)]


WRAPPERS = """
typedef const double *in;
typedef double *out;
#if IMPLICIT
FUNCTION int is_stopped(int asks) { return (void)asks, 0; } /* no call is: see mpcgen_alone.h */
#endif
static const double *prepared_theta(in theta) {
  static double all[NTHETA + NPREPARED + 1];
  memcpy(all, theta, NTHETA * sizeof(double));
#if NPREPARED
  prepare_parameters(all, all + NTHETA);
#endif
  return all;
}
#define T prepared_theta(theta)
#define WRAP(name, parameters, arguments) void call_##name parameters; void call_##name parameters { name arguments; }
WRAP(stage_dynamics, (in x, in u, in theta, in theta_t, out next, out cost), (x, u, T, theta_t, next, cost))
WRAP(stage_tangent, (in x, in u, in theta, in theta_t, in dx, in du, out d), (x, u, T, theta_t, dx, du, d))
WRAP(stage_rows, (in x, in u, in theta, in theta_t, out rows), (x, u, T, theta_t, rows))
WRAP(terminal_rows, (in x, in theta, in theta_t, out rows), (x, T, theta_t, rows))
WRAP(stage_rows_tangent, (in x, in u, in theta, in theta_t, in dx, in du, out d), (x, u, T, theta_t, dx, du, d))
WRAP(terminal_rows_tangent, (in x, in theta, in theta_t, in dx, out d), (x, T, theta_t, dx, d))
WRAP(stage_row_bounds, (in theta, in theta_t, out lower, out upper), (T, theta_t, lower, upper))
WRAP(terminal_row_bounds, (in theta, in theta_t, out lower, out upper), (T, theta_t, lower, upper))
#if SOFT_ROWS
WRAP(stage_row_weights, (in theta, in theta_t, out linear, out quadratic), (T, theta_t, linear, quadratic))
WRAP(terminal_row_weights, (in theta, in theta_t, out linear, out quadratic), (T, theta_t, linear, quadratic))
WRAP(row_weights_gradient, (in theta, in theta_t, in a, in b, out g, out gt), (T, theta_t, a, b, g, gt))
WRAP(terminal_row_weights_gradient, (in theta, in theta_t, in a, in b, out g, out gt), (T, theta_t, a, b, g, gt))
WRAP(row_weights_forward, (in theta, in theta_t, in d, in dt, out a, out b), (T, theta_t, d, dt, a, b))
WRAP(terminal_row_weights_forward, (in theta, in theta_t, in d, in dt, out a, out b), (T, theta_t, d, dt, a, b))
#endif
WRAP(row_bounds_gradient, (in theta, in theta_t, in a, in b, out g, out gt), (T, theta_t, a, b, g, gt))
WRAP(terminal_row_bounds_gradient, (in theta, in theta_t, in a, in b, out g, out gt), (T, theta_t, a, b, g, gt))
WRAP(row_bounds_forward, (in theta, in theta_t, in d, in dt, out a, out b), (T, theta_t, d, dt, a, b))
WRAP(terminal_row_bounds_forward, (in theta, in theta_t, in d, in dt, out a, out b), (T, theta_t, d, dt, a, b))
WRAP(terminal_expand,
     (in x, in theta, in theta_t, in weight, in dual, in stiffness, in force, out hessian, out costate, out offset),
     (x, T, theta_t, weight, dual, stiffness, force, hessian, costate, offset))
WRAP(stage_gradient,
     (in x, in u, in theta, in theta_t, in costate, in dual, in dx, in du, in dl, in dy, in cost, out g, out gt,
      out gu),
     (x, u, T, theta_t, costate, dual, dx, du, dl, dy, cost, g, gt, gu))
WRAP(terminal_gradient,
     (in x, in theta, in theta_t, in dual, in dx, in dy, in cost, out g, out gt),
     (x, T, theta_t, dual, dx, dy, cost, g, gt))
WRAP(stage_forward,
     (in x, in u, in theta, in theta_t, in costate, in dual, in d, in dt, out rx, out ru, out f, out c, out cost),
     (x, u, T, theta_t, costate, dual, d, dt, rx, ru, f, c, cost))
WRAP(terminal_forward,
     (in x, in theta, in theta_t, in dual, in d, in dt, out rx, out c, out cost),
     (x, T, theta_t, dual, d, dt, rx, c, cost))

#define MODEL (in x, in u, in theta, in theta_t, in weight, in costate, in V, in offset, in dual, in stiffness, \\
               in force, out Q, out total, out gradient_u, out offset_x, out offset_u)
static void model_of(int exact, in x, in u, in theta, in theta_t, in weight, in costate, in V, in offset, in dual,
                     in stiffness, in force, out Q, out total, out gradient_u, out offset_x, out offset_u) {
  value_model value;
  stage_model q;
  memcpy(value.costate, costate, sizeof value.costate);
  memcpy(value.hessian, V, sizeof value.hessian);
  memcpy(value.offset, offset, sizeof value.offset);
  if (exact) stage_expand_exact(x, u, T, theta_t, weight, &value, dual, stiffness, force, &q);
  else stage_expand_gauss_newton(x, u, T, theta_t, &value, dual, stiffness, force, &q);
  memcpy(Q, q.hessian, sizeof q.hessian);
  memcpy(total, q.costate, sizeof q.costate);
  memcpy(gradient_u, q.gradient_u, sizeof q.gradient_u);
  memcpy(offset_x, q.offset_x, sizeof q.offset_x);
  memcpy(offset_u, q.offset_u, sizeof q.offset_u);
}
#define PASSED x, u, theta, theta_t, weight, costate, V, offset, dual, stiffness, force, Q, total, gradient_u, \\
  offset_x, offset_u
void call_exact MODEL;
void call_exact MODEL { model_of(1, PASSED); }
void call_gauss_newton MODEL;
void call_gauss_newton MODEL { model_of(0, PASSED); }

#ifdef HAS_ADJOINT
#define ADJOINT (in x, in u, in theta, in theta_t, in costate, in dual, out total, out gradient_u)
void call_adjoint ADJOINT;
void call_adjoint ADJOINT {
  stage_model q;
  stage_adjoint(x, u, T, theta_t, costate, dual, &q);
  memcpy(total, q.costate, sizeof q.costate);
  memcpy(gradient_u, q.gradient_u, sizeof q.gradient_u);
}
#endif
"""


class Witness:
    """CasADi expressions of a stage and of the end, straight from the specification."""

    def __init__(self, spec):
        functions = Functions(spec)
        self.functions = functions
        self.x, self.u, self.theta = functions._x, functions._u, functions._theta
        self.unknowns = ca.SX(0, 1) if functions._implicit is None else functions._implicit.unknowns
        self.tau, self.f = functions._tau, functions._next
        self.cost, self.terminal_cost = functions._stage, functions._terminal
        translate = Translator(functions._symbols())
        groups = {name: spec.group(name) for name in ("mixed", "state", "terminal")}

        def flat(names, field):
            rows = [row for name in names for c in groups[name] for row in getattr(c, field)]
            return translate.vector(rows) if rows else ca.SX(0, 1)

        self.path, self.end = (
            {field: flat(names, field) for field in ("rows", "lower", "upper", "soft", "soft_quadratic")}
            for names in (("mixed", "state"), ("state", "terminal"))
        )

    def at(self, point, *expressions):
        """Values at (x, u, theta), as flat arrays."""
        inputs = [self.x, self.u, self.theta, self.unknowns]
        function = ca.Function("value", inputs, [ca.densify(e) for e in expressions])
        values = function.call([*map(ca.DM, point), self.functions.unknowns(*point)])
        return [np.asarray(value) for value in values]


class Case:
    """A compiled problem, its witness, and a random point."""

    def __init__(self, compiled):
        self.call, self.spec = compiled, compiled.spec
        self.witness = Witness(self.spec)
        random = np.random.default_rng(7)
        self.n, self.m = len(self.spec.states), len(self.spec.controls)
        self.x, self.u = random.uniform(0.3, 0.9, self.n), random.uniform(0.3, 0.9, self.m)
        per_stage = np.array([p.per_stage for p in self.spec.parameters for _ in p.symbols], dtype=bool)
        self.all_theta = random.uniform(0.5, 1.5, len(per_stage))
        self.per_stage = per_stage
        self.theta, self.theta_t = self.all_theta[~per_stage], self.all_theta[per_stage]
        self.point = (self.x, self.u, self.all_theta)
        self.path = compiled.model.path_rows
        self.end = compiled.model.end_rows
        self.random = random

    def draw(self, size):
        return self.random.standard_normal(size)

    def by_parameters(self, gradient):
        """The constant and the per-stage part of a vector over all parameters."""
        return gradient[~self.per_stage], gradient[self.per_stage]

    @property
    def parameter_sizes(self):
        return len(self.theta), len(self.theta_t)
