"""Models as CasADi functions."""

import casadi as ca
import numpy as np
from graph_models import articulated_body


class _Scalar:
    """An SX scalar that NumPy's object arrays leave alone, where they would take it for a matrix."""

    def __init__(self, value):
        self.value = value

    def _with(self, other, operation):
        return _Scalar(operation(self.value, other.value if isinstance(other, _Scalar) else other))

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    def __radd__(self, other):
        return self._with(other, lambda a, b: b + a)

    def __sub__(self, other):
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other):
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)

    def __rmul__(self, other):
        return self._with(other, lambda a, b: b * a)

    def __truediv__(self, other):
        return self._with(other, lambda a, b: a / b)

    def __neg__(self):
        return _Scalar(-self.value)

    def sin(self):
        return _Scalar(ca.sin(self.value))

    def cos(self):
        return _Scalar(ca.cos(self.value))


def arm():
    """Rates of an arm of six joints: (x (12), u (6)) -> dx/dt (12), by the articulated-body algorithm."""
    q, v, u = (ca.SX.sym(name, 6) for name in "qvu")
    scalars = (np.array([_Scalar(entry) for entry in ca.vertsplit(part)], dtype=object) for part in (q, v, u))
    accelerations = articulated_body(np, *scalars)
    rates = ca.vertcat(v, *(entry.value for entry in accelerations))
    return ca.Function("arm", [ca.vertcat(q, v), u], [rates], ["x", "u"], ["rates"])
