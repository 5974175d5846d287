"""A generated package in miniature, for the tests of what happens to rendered text."""

import sympy as sp

from mpcgen.codegen.rendered import Rendered, source_digest
from mpcgen.problem.spec import ControlSpec, DynamicsSpec, Spec

SUFFIXES = ("f64_batch", "f32_batch", "f64_single", "f32_single")

HEADER = """/* toy: one function per variant. */
#ifndef TOY_H
#define TOY_H
/* cffi: begin */
{declarations}
/* cffi: end */
#endif
"""

SOURCE = """#include "toy.h"
#if MPCGEN_PRECISION == 64
typedef double number;
#else
typedef float number;
#endif
#if MPCGEN_PRECISION == 64 && MPCGEN_BATCH
#define SCALE toy_scale_f64_batch
#elif MPCGEN_BATCH
#define SCALE toy_scale_f32_batch
#elif MPCGEN_PRECISION == 64
#define SCALE toy_scale_f64_single
#else
#define SCALE toy_scale_f32_single
#endif

double SCALE(double x)
{{
    return (number){factor} * (number)x;
}}
"""

PACKAGE = """from mpcgen.runtime.loading import load

library = load(__file__, "{name}", "{digest}")


def MPC(suffix, x):
    return getattr(library.lib, f"{name}_scale_{{suffix}}")(x)
"""


def toy_rendered(factor: str = "0.1", name: str = "toy") -> Rendered:
    """A package whose functions multiply by ``factor`` in their own precision."""
    declarations = "\n".join(f"double toy_scale_{suffix}(double x);" for suffix in SUFFIXES)
    header = HEADER.format(declarations=declarations).replace("toy", name).replace("TOY", name.upper())
    source = SOURCE.format(factor=factor).replace("toy", name)
    package = PACKAGE.format(name=name, digest=source_digest(header, source))
    files = ((f"{name}.h", header), (f"{name}.c", source), ("__init__.py", package))
    return Rendered(name, files, header, source, small=True, sizes=(("states", 1),))


def toy_spec(weight: float = 1.0, name: str = "toy") -> Spec:
    """One state, one control, one step of the identity plus control."""
    x, u = sp.symbols("x u", real=True)
    control = ControlSpec(u, sp.Integer(-1), sp.Integer(1))
    cost = weight * (x**2 + u**2)
    return Spec(name, 3, (x,), (control,), (), DynamicsSpec((x + u,)), cost, weight * x**2)
