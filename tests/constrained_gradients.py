"""Gradients of constrained problems against two witnesses: `python tests/constrained_gradients.py --count 1000`.

Random instances of the problems of `constrained_problems`: x0 and parameters (bounds and places of constraints among
them) are moved about at random, and a random linear loss of states, controls and cost is differentiated by all of
them. The witnesses are the dense KKT system of the baseline at the same solution, and central differences of the loss
along a random direction, solved anew from the solution. Where a row is so weakly active that its state is not certain
to last for a step of the differences (`margin`), the gradient may be one-sided: such instances are counted and left
out. Prints a row for each problem, and exits with status 1 where an error exceeds what is promised.

With ``--float32`` instead: gradients in float32 at its tolerance beside those in float64, for instances that have the
same solution in both. An entry's error is relative to the largest entry of its gradient.
"""

import argparse
import sys

import constrained_problems as problems
import torch
from controllers import compiled

import mpcgen
from mpcgen.baseline import Functions, kkt_gradient

SPREAD = {
    problems.van_der_pol: 0.05,
    problems.safe_cartpole: 0.05,
    problems.pendulum_swing_up: 0.05,
    problems.cartpole_swing_up: 0.02,
    problems.car_among_discs: 0.02,
    problems.double_integrator: 0.05,
    problems.rocket: 0.02,
    problems.linear_quadratic: 0.1,
}
"""By how much, relative to max(|value|, 1), x0 is moved; parameters by `PARAMETERS` of their values."""
PARAMETERS = 0.02
LEAST_MARGIN = 1e-4
STEP = 1e-6
KKT = {problems.rocket: 1e-6}
"""Largest relative error beside the KKT system, where it is not `KKT_ELSEWHERE`."""
KKT_ELSEWHERE = 1e-7
DIFFERENCES = 1e-4
LEAST_COSINE = 0.999999
FLOAT32 = 1e-3
SAME_SOLUTION = 0.02
"""Largest difference of controls, relative to the largest one, between precisions that found the same minimum."""


def instances(make, count, seed):
    """x0 (count, n) and parameters by name, (count, ...) each."""
    generator = torch.Generator().manual_seed(seed)

    def moved(value, by, least):
        noise = torch.randn(count, *value.shape, generator=generator, dtype=torch.float64)
        return value + by * value.abs().clamp_min(least) * noise

    x0 = moved(torch.tensor(problems.STARTS[make], dtype=torch.float64), SPREAD[make], 1.0)
    values = {
        p.name: moved(torch.tensor(p.default, dtype=torch.float64).reshape(p.shape), PARAMETERS, 0.0)
        for p in make().spec().parameters
    }
    return x0, values


class Loss:
    """A random linear function of a solution."""

    def __init__(self, sol, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(sol.x.shape, generator=generator, dtype=torch.float64)
        self.u = torch.randn(sol.u.shape, generator=generator, dtype=torch.float64)
        self.cost = torch.randn(sol.cost.shape, generator=generator, dtype=torch.float64)

    def __call__(self, sol):
        """(B): the loss of each problem."""
        return (self.x * sol.x).sum((-2, -1)) + (self.u * sol.u).sum((-2, -1)) + self.cost * sol.cost


def along(gradients, directions):
    """(B): inner products of gradients and directions, over all that is differentiated by."""
    return sum((g * d).reshape(len(g), -1).sum(1) for g, d in zip(gradients, directions, strict=True))


def by_differences(mpc, sol, names, leaves, directions, loss):
    """(B): central differences of the loss along the directions, and where both sides were solved."""
    sides = []
    for sign in (STEP, -STEP):
        x0, *values = (leaf.detach() + sign * d for leaf, d in zip(leaves, directions, strict=True))
        # from the solution: a cold start may lead to another minimum, and the difference be that between the two
        sides.append(mpc(x0, warm_start=sol, shift=0, **dict(zip(names, values, strict=True))))
    solved = (sides[0].status == mpcgen.Status.CONVERGED) & (sides[1].status == mpcgen.Status.CONVERGED)
    return (loss(sides[0]) - loss(sides[1])) / (2 * STEP), solved


def by_kkt(functions, sol, values, loss, i):
    """Gradient of instance i by x0 and all parameters, as one vector."""
    found = kkt_gradient(
        functions,
        sol.x[i].detach().numpy(),
        sol.u[i].detach().numpy(),
        {name: value[i].detach().numpy() for name, value in values.items()},
        loss.x[i].numpy(),
        loss.u[i].numpy(),
        float(loss.cost[i]),
        duals={name: dual[i].detach().numpy() for name, dual in sol.duals.items()},
    )
    parts = [found.x0, *(found.parameters[name] for name in values)]
    return torch.cat([torch.as_tensor(part, dtype=torch.float64).flatten() for part in parts])


def examine(make, count, seed):
    """Compare `count` instances; returns the row of the table, and whether all is as promised."""
    spec = make().spec()
    x0, values = instances(make, count, seed)
    leaves = [leaf.requires_grad_(True) for leaf in (x0, *values.values())]
    mpc = compiled(spec).MPC(max_iterations=1000, tol=1e-10, on_unconverged="ignore")
    sol = mpc(x0, **values)
    loss = Loss(sol, seed)
    gradients = torch.autograd.grad(loss(sol).sum(), leaves)
    generator = torch.Generator().manual_seed(seed + 1)
    directions = [
        leaf.detach().abs().clamp_min(0.1) * torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        for leaf in leaves
    ]
    differences, resolved = by_differences(mpc, sol, values, leaves, directions, loss)
    ours = torch.cat([g.reshape(count, -1) for g in gradients], 1)
    exact = (sol.status == mpcgen.Status.CONVERGED) & (sol.margin > LEAST_MARGIN)
    functions, errors, cosines, doubtful = Functions(spec), [], [], 0
    moved = torch.cat([d.reshape(count, -1) for d in directions], 1)
    slope, size = along(gradients, directions), ours.norm(dim=1) * moved.norm(dim=1)
    limit = KKT.get(make, KKT_ELSEWHERE)
    for i in exact.nonzero().flatten().tolist():
        witness = by_kkt(functions, sol, values, loss, i)
        error = float((ours[i] - witness).norm() / witness.norm())
        theirs, own = ((along_it - differences[i]).abs() for along_it in (witness @ moved[i], slope[i]))
        if error > limit and resolved[i] and theirs > 10 * own:
            doubtful += 1
            continue
        errors.append(error)
        cosines.append(float(torch.cosine_similarity(ours[i], witness, dim=0)))
    apart = ((slope - differences).abs() / size)[exact & resolved]
    return {
        "instances": count,
        "solved": int((sol.status == mpcgen.Status.CONVERGED).sum()),
        "compared": len(errors),
        "kkt": max(errors, default=0.0),
        "over": sum(error > limit for error in errors),
        "doubtful": doubtful,
        "cosine": min(cosines, default=1.0),
        "differences": float(apart.max()) if len(apart) else 0.0,
        "apart": int((apart > DIFFERENCES).sum()),
    }


def gradients_of(spec, dtype, x0, values, seed):
    """The solution in a precision, and gradients of the random loss by x0 and the parameters, (count, ...) each."""
    leaves = [leaf.detach().to(dtype).requires_grad_(True) for leaf in (x0, *values.values())]
    module = compiled(spec, (str(dtype).removeprefix("torch."),))
    mpc = module.MPC(max_iterations=1000, on_unconverged="ignore")
    sol = mpc(leaves[0], **dict(zip(values, leaves[1:], strict=True)))
    loss = Loss(sol, seed)
    found = torch.autograd.grad(loss(sol).sum(), leaves)
    return sol, [g.double().reshape(len(x0), -1) for g in found]


def examine_float32(make, count, seed):
    """How far the gradients in float32 are from those in float64: a line."""
    x0, values = instances(make, count, seed)
    sol, exact = gradients_of(make().spec(), torch.float64, x0, values, seed)
    rounded, ours = gradients_of(make().spec(), torch.float32, x0, values, seed)
    both = (sol.status == mpcgen.Status.CONVERGED) & (rounded.status == mpcgen.Status.CONVERGED)
    apart = (sol.u - rounded.u).abs().amax((1, 2)) / sol.u.abs().amax((1, 2))
    same = both & (apart < SAME_SOLUTION) & (sol.margin > LEAST_MARGIN)
    errors = torch.cat(
        [
            ((o - e).abs() / e.abs().amax(1, keepdim=True).clamp_min(1e-12))[same].flatten()
            for o, e in zip(ours, exact, strict=True)
        ]
    )
    within = (errors <= FLOAT32).double().mean() if len(errors) else float("nan")
    middle, most = (errors.quantile(q) if len(errors) else float("nan") for q in (0.5, 0.99))
    return (
        f"{make.__name__:20}{int(same.sum()):>6} of {count}, {len(errors):>6} entries: {within:.1%} within "
        f"{FLOAT32:g}; half of them {middle:.1e}, 99 % {most:.1e}"
    )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="instances, over all problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problem", choices=[make.__name__ for make in SPREAD], action="append")
    parser.add_argument("--float32", action="store_true", help="compare the precisions")
    options = parser.parse_args()
    chosen = [make for make in SPREAD if not options.problem or make.__name__ in options.problem]
    each = -(-options.count // len(chosen))
    if options.float32:
        for make in chosen:
            print(examine_float32(make, each, options.seed), flush=True)
        return 0
    print(
        f"{'':20}{'solved':>10}{'compared':>10}{'KKT':>10}{'1-cosine':>10}{'over':>6}{'doubtful':>10}{'differences':>13}{'apart':>7}"
    )
    wrong = 0
    for make in chosen:
        row = examine(make, each, options.seed)
        wrong += row["over"] + row["apart"] + (row["cosine"] < LEAST_COSINE)
        solved = f"{row['solved']}/{row['instances']}"
        print(
            f"{make.__name__:20}{solved:>10}{row['compared']:>10}{row['kkt']:>10.1e}{1 - row['cosine']:>10.0e}"
            f"{row['over']:>6}{row['doubtful']:>10}{row['differences']:>13.1e}{row['apart']:>7}",
            flush=True,
        )
    print("as promised" if not wrong else f"{wrong} beyond what is promised")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
