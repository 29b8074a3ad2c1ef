"""Answers that are found without this library, to compare with."""

from collections.abc import Callable

import numpy as np
from reference_problems import Array, Formula, complex_step
from scipy.optimize import lsq_linear, minimize

Rows = Callable[[Array], Array]


def optimum_by_slsqp(formula: Formula, x0: Array, us0: Array) -> Array:
    """Controls ``(T, m)`` of the local optimum that SciPy's SLSQP reaches from us0, under the constraints of the formula.

    The controls are the only variables; derivatives are exact, by complex steps.
    """
    shape = us0.shape
    inequality, equality = constraint_rows(formula, x0)
    rows = [("ineq", -1.0, inequality), ("eq", 1.0, equality)]
    constraints = [
        {
            "type": kind,
            "fun": lambda z, f=f, sign=sign: sign * f(z.reshape(shape)),
            "jac": lambda z, f=f, sign=sign: sign * complex_step(f, z.reshape(shape)).reshape(-1, z.size),
        }
        for kind, sign, f in rows
        if len(f(us0))
    ]
    lower, upper = (np.broadcast_to(limit, shape).ravel() for limit in (formula.lower, formula.upper))
    result = minimize(
        lambda z: float(formula.cost(x0, z.reshape(shape))),
        us0.ravel(),
        jac=lambda z: formula.gradient(x0, z.reshape(shape)).ravel(),
        bounds=list(zip(lower, upper, strict=True)),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    return result.x.reshape(shape)


def constraint_rows(formula: Formula, x0: Array) -> tuple[Rows, Rows]:
    """Inequality and equality rows as functions of plans ``(..., T, m)``: ``(..., k)`` each, k = 0 where there are none."""

    def inequality(us: Array) -> Array:
        if formula.inequality is None:
            return np.zeros((*us.shape[:-2], 0))
        value = formula.inequality(formula.rollout(x0, us)[..., 1:, :])
        return value.reshape(*value.shape[:-2], -1)

    def equality(us: Array) -> Array:
        if formula.terminal_equality is None:
            return np.zeros((*us.shape[:-2], 0))
        return formula.terminal_equality(formula.rollout(x0, us)[..., -1, :])

    return inequality, equality


def optimality(formula: Formula, x0: Array, us: Array, active: float = 1e-6) -> tuple[float, float]:
    """Residual of the conditions of Karush, Kuhn and Tucker of a plan ``(T, m)``, and the largest violation of a constraint.

    The residual is the largest entry of the gradient that multipliers of rows within ``active`` of zero leave over.
    """
    inequality, equality = constraint_rows(formula, x0)
    columns, lowest = [], []
    for rows, smallest in ((inequality, 0.0), (equality, -np.inf)):
        value = rows(us)
        near = value > -active if smallest == 0.0 else np.ones(len(value), dtype=bool)
        jacobian = complex_step(rows, us).reshape(-1, us.size)[near] if len(value) else np.zeros((0, us.size))
        columns.append(jacobian)
        lowest += [smallest] * len(jacobian)
    eye = np.eye(us.size)
    for sign, limit in ((1.0, formula.upper), (-1.0, formula.lower)):
        near = (sign * (us - limit) > -active).ravel()
        columns.append(sign * eye[near])
        lowest += [0.0] * int(near.sum())
    gradient, J = formula.gradient(x0, us).ravel(), np.concatenate(columns)
    left = gradient
    if len(J):
        multipliers = lsq_linear(J.T, -gradient, bounds=(lowest, np.inf), method="bvls", tol=1e-14).x
        left = gradient + J.T @ multipliers
    violation = max([0.0, *inequality(us), *np.abs(equality(us))])
    return float(np.abs(left).max()), float(violation)
