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


class BoundedLinearQuadratic:
    r"""Minimize half the squares of states and controls under x' = A x + B u + b and limits, by its optimality conditions.

    States, controls and multipliers are solved for at once, so that an unstable A does no harm. An interior-point method finds
    the active set; with its controls at their limits one linear system remains, whose solution has to agree with it.

    Args:
        A: ``(n, n)``.
        B: ``(n, m)``.
        b: ``(n,)``.
        T: number of steps.
        limit: of the controls, to both sides.
    """

    def __init__(self, A: Array, B: Array, b: Array, T: int, limit: float):
        (n, m), self.T, self.limit, self.b = B.shape, T, limit, b
        self.n, self.m, self.states, self.controls = n, m, (T + 1) * n, T * m
        free = self.states + self.controls
        dynamics = np.zeros((self.states, free))  # x_0, and x_{t+1} - A x_t - B u_t
        dynamics[:, : self.states] = np.eye(self.states) - np.kron(np.eye(T + 1, k=-1), A)
        dynamics[n:, self.states :] = -np.kron(np.eye(T), B)
        self.matrix = np.block([[np.eye(free), dynamics.T], [dynamics, np.zeros((self.states, self.states))]])

    def solve(self, x0: Array, q: Array) -> Array:
        """Optimal controls ``(T, m)`` with the linear cost q ``(n,)`` of the states before the last."""
        right = np.concatenate([np.tile(-q, self.T), np.zeros(self.n + self.controls), x0, np.tile(self.b, self.T)])
        active = self._interior_point(right)
        us, slope = self._solved(active, right)
        outside = np.where(active == 0, us, self.limit * active - slope)
        if not np.array_equal(np.where(np.abs(outside) > self.limit, np.sign(outside), 0.0), active):
            raise RuntimeError("the active set contradicts the signs of its multipliers")
        return np.where(active == 0, us, self.limit * active).reshape(self.T, self.m)

    def _interior_point(self, right: Array) -> Array:
        """Which limits are active at the optimum, by a primal-dual method for the distances to them and their multipliers."""
        block = slice(self.states, self.states + self.controls)
        us, prices = np.zeros(self.controls), np.ones((2, self.controls))
        signs = np.array([[1.0], [-1.0]])
        for _ in range(100):
            slacks = self.limit - signs * us
            target = 0.1 * (prices * slacks).mean()
            if target < 1e-14 * self.limit:
                break
            stiffness = (prices / slacks).sum(0)
            matrix, shifted = self.matrix.copy(), right.copy()
            matrix[block, block] += np.diag(stiffness)
            shifted[block] += stiffness * us - (signs * target / slacks).sum(0)
            step = np.linalg.solve(matrix, shifted)[block] - us
            change = target / slacks + prices / slacks * signs * step - prices
            shrinking = np.concatenate([(signs * step / slacks).ravel(), (-change / prices).ravel(), [0.99]])
            length = 0.99 / shrinking.max()
            us, prices = us + length * step, prices + length * change
        return np.where(prices > slacks, signs, 0.0).sum(0)

    def _solved(self, active: Array, right: Array) -> tuple[Array, Array]:
        """Controls, and the derivative of the cost by them, with those of the active set at their limits."""
        matrix, right = self.matrix.copy(), right.copy()
        rows = self.states + np.flatnonzero(active)  # -1 at the lower limit, 1 at the upper one
        matrix[rows], right[rows] = np.eye(len(matrix))[rows], self.limit * active[active != 0]
        z = np.linalg.solve(matrix, right)
        z += np.linalg.solve(matrix, right - matrix @ z)
        controls = slice(self.states, self.states + self.controls)
        return z[controls], (self.matrix @ z)[controls]

    def gradient(self, us: Array, weights: Array) -> tuple[Array, Array]:
        """Derivative of ``(weights * us).sum()`` at optimal controls by x0 and by q ``(n,)`` each."""
        matrix = self.matrix.copy()
        rows = self.states + np.flatnonzero(np.abs(us.ravel()) >= self.limit)
        matrix[rows] = np.eye(len(matrix))[rows]
        right = np.zeros(len(matrix))
        right[self.states : self.states + self.controls] = weights.ravel()
        adjoint = np.linalg.solve(matrix.T, right)
        by_x0 = adjoint[self.states + self.controls :][: self.n]
        return by_x0, -adjoint[: self.T * self.n].reshape(self.T, self.n).sum(0)
