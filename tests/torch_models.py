"""Torch modules that are followed into a problem, and what torch says of their values and derivatives."""

import random

import torch
from torch import nn
from torch.func import functional_call, grad, jacfwd, jacrev, stack_module_state

import mpcgen
from mpcgen.derivative import hessian as graph_hessian
from mpcgen.derivative import jacobian
from mpcgen.ir import evaluate
from mpcgen.problem.lowering import lower_spec


def activated(activation, width=4, n=2, m=1):
    return nn.Sequential(nn.Linear(n + m, width), activation, nn.Linear(width, n)).double()


class Joined(nn.Module):
    """A network of (x, u)."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, u):
        return self.net(torch.cat([x, u]))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x, u):
        hidden = self.first(torch.cat([x, u], -1))
        hidden = hidden + torch.tanh(self.norm(hidden))
        return x + 0.1 * self.last(hidden)


class Gru(nn.Module):
    """The hidden state (2) follows the position (1)."""

    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.GRUCell(2, 2), nn.Linear(2, 1)

    def forward(self, x, u):
        hidden = self.cell(torch.cat([x[:1], u]), x[1:])
        return torch.cat([x[:1] + 0.1 * self.last(hidden), hidden])


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.LSTMCell(2, 2), nn.Linear(2, 1)

    def forward(self, x, u):
        hidden, memory = self.cell(torch.cat([x[:1], u]), (x[1:3], x[3:]))
        return torch.cat([x[:1] + 0.1 * self.last(hidden), hidden, memory])


class Hamiltonian(nn.Module):
    """Differentiates an energy of (q, p) by torch.func."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1))

    def forward(self, x, u):
        slope = grad(lambda z: self.energy(z).squeeze())(x)
        return torch.stack([x[0] + 0.1 * slope[1], x[1] - 0.1 * slope[0] + 0.1 * u[0]])


class HamiltonianByAutograd(Hamiltonian):
    def forward(self, x, u):
        z = x.requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(z).sum(), z, create_graph=True)
        return torch.stack([x[0] + 0.1 * slope[1], x[1] - 0.1 * slope[0] + 0.1 * u[0]])


class Lagrangian(nn.Module):
    """Accelerations of two coordinates from a learned mass matrix and potential."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
        self.potential = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def mass(self, q):
        a, b, c = self.factor(q)
        lower = torch.stack([torch.stack([torch.exp(a), 0 * a]), torch.stack([c, torch.exp(b)])])
        return lower @ lower.T

    def forward(self, x, u):
        q, v = x[:2], x[2:]
        energy = lambda q, v: 0.5 * v @ self.mass(q) @ v - self.potential(q).squeeze()  # noqa: E731
        force = grad(energy)(q, v) - jacfwd(jacrev(energy, 1), 0)(q, v) @ v
        a = torch.linalg.solve(self.mass(q), force + torch.cat([u, 0 * u]))
        return torch.cat([q + 0.1 * v, v + 0.1 * a])


class ByHand(nn.Module):
    """What people write: in place, einsum, where, clamp, atan2, indexing, a general solve, casts to the same."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.randn(2, 2))
        self.register_buffer("shift", torch.tensor([0.3, -0.2]))
        self.register_buffer("table", torch.tensor([1.0, 2.0]), persistent=False)

    def forward(self, x, u):
        y = torch.zeros(4, dtype=x.dtype)
        y[:2] = torch.einsum("ij,j->i", self.A, x) + self.shift
        y[2] = torch.atan2(x[0], 2 + u[0] ** 2)
        y[3:] += torch.where(x[1] > 0.1, x[1] ** 2, 0.2 * x[1] - 0.01).clamp(-0.5, 0.5)
        M = torch.stack([torch.stack([0 * x[0], 1 + u[0] ** 2]), torch.stack([2 + x[0], x[1]])])
        z = torch.linalg.solve(M, y[[0, 2]] * self.table)
        return (z + 0.1 * y[[1, 3]].flip(0) / torch.linalg.norm(y) + torch.cross(y[:3], y[1:], dim=0)[:2]).to(
            x.dtype
        )


def ensemble(count=3):
    members = [Joined(activated(nn.Tanh())) for _ in range(count)]
    return members[0], stack_module_state(members)[0]


def functional():
    base = activated(nn.SiLU())
    weights = {name: tensor.detach().clone() for name, tensor in base.named_parameters()}
    return (lambda x, u: functional_call(base, weights, (torch.cat([x, u]),))), weights


ACTIVATIONS = {
    "tanh": nn.Tanh(), "relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"),
    "softplus": nn.Softplus(), "elu": nn.ELU(), "sigmoid": nn.Sigmoid(), "selu": nn.SELU(), "celu": nn.CELU(0.5),
    "mish": nn.Mish(), "leaky_relu": nn.LeakyReLU(), "hardtanh": nn.Hardtanh(), "hardswish": nn.Hardswish(),
    "logsigmoid": nn.LogSigmoid(), "softmax": nn.Softmax(-1), "relu6": nn.ReLU6(),
    "log_softmax": nn.LogSoftmax(-1), "prelu": nn.PReLU(), "softshrink": nn.Softshrink(), "softsign": nn.Softsign(),
    "tanhshrink": nn.Tanhshrink(),
}  # fmt: skip


def modules():
    """Name, module, number of states; one control."""
    torch.manual_seed(0)
    found = {name: (Joined(activated(activation)), 2) for name, activation in ACTIVATIONS.items()}
    found |= {
        "residual": (Residual(), 2),
        "gru": (Gru(), 3),
        "lstm": (Lstm(), 5),
        "hamiltonian": (Hamiltonian(), 2),
    }
    found |= {
        "autograd": (HamiltonianByAutograd(), 2),
        "lagrangian": (Lagrangian(), 4),
        "by hand": (ByHand(), 2),
    }
    return {name: (module.double(), n) for name, (module, n) in found.items()}


def problem_of(module, n, horizon=3, **options):
    problem = mpcgen.Problem("learned", horizon=horizon)
    problem.states([f"x{i}" for i in range(n)])
    problem.controls("force")
    problem.dynamics = mpcgen.torch_model(problem, module, **options)
    problem.stage_cost = sum(s**2 for s in problem.state_symbols) + sum(u**2 for u in problem.control_symbols)
    problem.terminal_cost = sum(s**2 for s in problem.state_symbols)
    return problem


def by_torch(module, x, u):
    """Value, Jacobian and Hessians by (x, u)."""
    tau = torch.cat([x, u]).requires_grad_()
    value = module(tau[: len(x)], tau[len(x) :])

    def slopes(of):
        if not of.requires_grad:
            return torch.zeros_like(tau)
        return torch.autograd.grad(of, tau, create_graph=True, materialize_grads=True)[0]

    first = torch.stack([slopes(entry) for entry in value])
    second = torch.stack([torch.stack([slopes(entry) for entry in row]) for row in first])
    return value.detach(), first.detach(), second.detach()


def by_graph(problem, weights, x, u):
    model = lower_spec(problem.spec()).unrolled
    tau = (*model.states, *model.controls)
    values = dict(zip(tau, [*x.tolist(), *u.tolist()], strict=True))
    flat = [v for p in model.signature.parameters for v in weights[p.name].detach().reshape(-1).tolist()]
    values |= dict(zip(model.parameters, flat, strict=True))
    rows = list(model.next_state)
    slopes = [entry for row in jacobian(rows, tau) for entry in row]
    curvature = [entry for row in rows for line in graph_hessian(row, tau) for entry in line]
    n, width = len(rows), len(tau)
    found = torch.tensor(evaluate([*rows, *slopes, *curvature], values), dtype=torch.float64)
    f, F, H = found.split([n, n * width, n * width**2])
    return f, F.reshape(n, width), H.reshape(n, width, width)


def points(n, m=1, count=3):
    numbers = random.Random(n)
    for _ in range(count):
        draw = torch.tensor([numbers.uniform(-1, 1) for _ in range(n + m)], dtype=torch.float64)
        yield draw[:n], draw[n:]
