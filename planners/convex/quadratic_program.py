r"""Batches of sparse quadratic programs, solved to the last digits and differentiable in every number.

.. math::
    \min_z \; \tfrac12 z^\top P z + q^\top z \quad \text{s.t.} \quad E z = e, \quad G z \le g

The program is written once in cvxpy for each sparsity pattern (a cvxpylayer, with the nonzeros as its parameters) and solved by
the interior-point method of Clarabel. The active constraints of its solution, those with a multiplier larger than their slack,
make the optimality conditions linear,

.. math::
    \begin{pmatrix} P & A^\top \\ A & 0 \end{pmatrix} \begin{pmatrix} z \\ y \end{pmatrix}
    = \begin{pmatrix} -q \\ b \end{pmatrix}, \qquad A, b: \text{equalities and active inequalities,}

whose solution replaces the one of the interior-point method where it fits better (as in OSQP's polishing, Stellato et al. 2020,
section 4). The transposed system gives the derivatives (Amos and Kolter 2017, equation 8, on the active set), by P itself and not
by a factor of it, so that they are right where P is singular or zero too. At a solution with a constraint that is active with a
multiplier of zero, where only one-sided derivatives exist, they are those of leaving it inactive. Where the solution is not
unique, the derivatives are those of the smallest change.
"""

import enum
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

POLISHING = 1e-9
"""Regularization of the system of active constraints, which refinement removes from its solution again."""
REFINEMENTS = 20


class Outcome(enum.IntEnum):
    """How the solve of one program ended."""

    SOLVED = 0
    ITERATION_LIMIT = 1
    INACCURATE = 2
    INFEASIBLE = 3
    UNBOUNDED = 4
    FAILED = 5


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A batch of matrices with one pattern; entries given twice add up.

    Attributes:
        shape: (rows, columns).
        rows: row of each entry ``(k,)``.
        columns: column of each entry ``(k,)``.
        values: entries ``(B, k)``.
    """

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    values: Tensor

    @property
    def pattern(self) -> "Pattern":
        """Where its entries are."""
        return Pattern(self.shape, self.rows.astype(np.int64).tobytes(), self.columns.astype(np.int64).tobytes())


@dataclass(frozen=True)
class Pattern:
    """Where the entries of a sparse matrix are: integers as bytes, which are quick to compare."""

    shape: tuple[int, int]
    rows: bytes
    columns: bytes

    def scatter(self) -> Any:
        """The constant matrix ``(rows * columns, k)`` that puts entries at their places, row by row."""
        import scipy.sparse as sp

        rows, columns = (np.frombuffer(part, dtype=np.int64) for part in (self.rows, self.columns))
        count = len(rows)
        index = rows * self.shape[1] + columns
        return sp.csr_array((np.ones(count), (index, np.arange(count))), shape=(self.shape[0] * self.shape[1], count))


@dataclass(frozen=True, eq=False)
class QuadraticProgram:
    """B programs of one pattern, in double precision.

    Attributes:
        P: symmetric positive semidefinite, both triangles given.
        q: ``(B, N)``.
        E, e: equalities, e ``(B, rows)``.
        G, g: inequalities, g ``(B, rows)``; rows of an infinite g are left out.
    """

    P: SparseMatrix
    q: Tensor
    E: SparseMatrix
    e: Tensor
    G: SparseMatrix
    g: Tensor

    def cost(self, z: Tensor) -> Tensor:
        """The cost of unknowns ``(B, N)``, ``(B,)``."""
        quadratic = (self.P.values * z[:, torch.as_tensor(self.P.rows)] * z[:, torch.as_tensor(self.P.columns)]).sum(-1)
        return 0.5 * quadratic + (self.q * z).sum(-1)


@dataclass(frozen=True, eq=False)
class ProgramSolution:
    """Solutions of B programs.

    Attributes:
        z: ``(B, N)``; zero where there is none.
        y: multipliers of the equalities ``(B, rows)``.
        multipliers: of the inequalities ``(B, rows)``, not negative.
        outcome: codes of :class:`Outcome`, ``(B,)``.
        residual: largest violation of the optimality conditions, relative to the numbers in them, ``(B,)``.
        iterations: of the interior-point method, ``(B,)``.
    """

    z: Tensor
    y: Tensor
    multipliers: Tensor
    outcome: Tensor
    residual: Tensor
    iterations: Tensor


def solve_programs(
    program: QuadraticProgram, *, tolerance: float, max_iterations: int, polish: bool = True
) -> ProgramSolution:
    """Solve each program of a batch.

    Args:
        program: the batch.
        tolerance: at which the interior-point method ends.
        max_iterations: of the interior-point method.
        polish: solve the system of the active constraints too, which makes the solution exact and differentiable: a graph then
            leads from it to all numbers where they require gradients.
    """
    q, g = program.q, program.g
    finite = g.isfinite()
    kept = finite[:, torch.as_tensor(program.G.rows)]  # a row without a bound becomes 0 <= 1
    G_values = torch.where(kept, program.G.values, torch.zeros_like(program.G.values))
    g = torch.where(finite, g, torch.ones_like(g))
    report = _Report()
    if len(q) == 0:
        y, multipliers, z = q.new_zeros(program.e.shape), g.clone(), q.clone()
    else:
        layer = _compiled(program.P.pattern, program.E.pattern, program.G.pattern)
        values = [program.P.values, q, program.E.values, program.e, G_values, g]
        options = {"report": report, "tolerance": tolerance, "max_iterations": max_iterations, "polish": polish}
        z, y, multipliers = layer(values, options)
    return ProgramSolution(
        z=z,
        y=y,
        multipliers=multipliers,
        outcome=torch.tensor(report.outcome, dtype=torch.long),
        residual=torch.tensor(report.residual, dtype=q.dtype),
        iterations=torch.tensor(report.iterations, dtype=torch.long),
    )


@dataclass
class _Report:
    """What the solver says about each program, in order."""

    outcome: list[int] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)


@lru_cache(maxsize=32)
def _compiled(P: Pattern, E: Pattern, G: Pattern) -> Callable[[list[Tensor], dict[str, Any]], tuple[Tensor, ...]]:
    """The program of a pattern as a cvxpylayer: a function of its nonzeros and vectors, ``(B, ...)`` each."""
    import cvxpy as cp
    from cvxpylayers.torch.cvxpylayer import CvxpyLayer

    z, q = cp.Variable(P.shape[0]), cp.Parameter(P.shape[0])
    values = [cp.Parameter(len(pattern.rows) // 8) for pattern in (P, E, G)]
    bounds = [cp.Parameter(pattern.shape[0]) for pattern in (E, G)]
    matrices = [
        cp.reshape(pattern.scatter() @ value, pattern.shape, order="C") if pattern.shape[0] else None
        for pattern, value in zip((P, E, G), values, strict=True)
    ]
    has_rows = G.shape[0] > 0
    constraints = [matrices[1] @ z == bounds[0], *([matrices[2] @ z <= bounds[1]] if has_rows else [])]
    objective = 0.5 * cp.quad_form(z, cp.psd_wrap(matrices[0])) + q @ z
    parameters = [values[0], q, values[1], bounds[0], *([values[2], bounds[1]] if has_rows else [])]
    variables = [z, *(constraint.dual_variables[0] for constraint in constraints)]
    layer = CvxpyLayer(
        cp.Problem(cp.Minimize(objective), constraints),
        parameters=parameters,
        variables=variables,
        solver=_interface()(),
    )
    lock = threading.Lock()  # a layer notes the batch of a call on itself

    def solve(tensors: list[Tensor], options: dict[str, Any]) -> tuple[Tensor, ...]:
        with lock:
            found = layer(*tensors[: len(parameters)], solver_args=options)
        return found if has_rows else (*found, tensors[1].new_zeros(len(tensors[1]), 0))

    return solve


@lru_cache(maxsize=1)
def _interface() -> type:
    """The solver as cvxpylayers asks for it."""
    from cvxpylayers.interfaces.base import SolverInterface

    class ActiveSetClarabel(SolverInterface):
        canon_solver = "CLARABEL"
        supports_quad_obj = True

        def setup(self, ctx: Any) -> None:
            self.layout = _Layout.of(ctx)

        def solve_torch_batch(self, P, q, A, dims, solver_args, needs_grad):
            found = [
                _solved(self.layout.matrices(*numbers), **solver_args)
                for numbers in zip(P.numpy(), q.numpy(), A.numpy(), strict=True)
            ]
            x, y = (torch.from_numpy(np.stack([getattr(one, name) for one in found])) for name in ("x", "y"))
            return x, y, (self.layout, found)

        def derivative_torch_batch(self, dprimal, ddual, saved_state):
            layout, found = saved_state
            parts = [
                layout.pulled_back(one, dx, dy)
                for one, dx, dy in zip(found, dprimal.numpy(), ddual.numpy(), strict=True)
            ]
            dP, dq, dA = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
            return dP, dq, dA

    return ActiveSetClarabel


@dataclass(frozen=True, eq=False)
class _Matrices:
    """One program as solvers take it: equalities first in A x <= b."""

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    equalities: int


@dataclass(frozen=True, eq=False)
class _Found:
    """The solution of one program and the rows of A that are active in it; no program where there is no exact solution."""

    x: np.ndarray
    y: np.ndarray
    matrices: _Matrices | None = None
    active: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the entries of P and of (-A, b) are, column by column, as cvxpy hands them over."""

    P: tuple[np.ndarray, np.ndarray]
    A: tuple[np.ndarray, np.ndarray]
    variables: int
    rows: int
    equalities: int

    @staticmethod
    def of(ctx: Any) -> "_Layout":
        P_rows, P_start, shape = ctx.reduced_P.problem_data_index
        A_rows, A_start, A_shape = ctx.reduced_A.problem_data_index
        return _Layout(
            P=(P_rows, P_start),
            A=(A_rows, A_start),
            variables=int(shape[0]),
            rows=int(A_shape[0]),
            equalities=int(ctx.cone_dims.zero),
        )

    def matrices(self, P: np.ndarray, q: np.ndarray, A: np.ndarray) -> _Matrices:
        import scipy.sparse as sp

        N = self.variables
        full = sp.csc_array((P, *self.P), shape=(N, N))
        extended = sp.csc_array((A, *self.A), shape=(self.rows, N + 1))
        return _Matrices(
            P=(0.5 * (full + full.T)).tocsc(),
            q=np.array(q[:-1]),
            A=(-extended[:, :-1]).tocsc(),
            b=extended[:, [-1]].toarray().ravel(),
            equalities=self.equalities,
        )

    def pulled_back(self, found: _Found, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The gradient by P, q and (-A, b) from that by the solution."""
        dq, db = np.zeros(self.variables + 1), np.zeros(self.rows)
        if found.matrices is None or found.active is None:
            return np.zeros(len(self.P[0])), dq, np.zeros(len(self.A[0]))
        active = found.active
        system = _active_system(found.matrices, active)
        w = system(np.concatenate([dx, dy[active]]))
        wx, db[active] = w[: self.variables], w[self.variables :]
        dq[:-1] = -wx
        rows, columns = self.P[0], np.repeat(np.arange(self.variables), np.diff(self.P[1]))
        dP = -0.5 * (wx[rows] * found.x[columns] + found.x[rows] * wx[columns])
        rows, columns = self.A[0], np.repeat(np.arange(self.variables + 1), np.diff(self.A[1]))
        x, wx = np.append(found.x, 0.0), np.append(wx, 0.0)
        y = np.zeros(self.rows)
        y[active] = found.y[active]
        dA = y[rows] * wx[columns] + db[rows] * x[columns]  # of -A, hence without a minus
        return dP, dq, np.where(columns == self.variables, db[rows], dA)


def _solved(matrices: _Matrices, *, report: _Report, tolerance: float, max_iterations: int, polish: bool) -> _Found:
    """Solve one program and say how it went."""
    clarabel: Any = importlib.import_module("clarabel")  # without type stubs

    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_iter, settings.max_threads = False, max_iterations, 1
    settings.presolve_enable = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    N, rows = len(matrices.q), len(matrices.b)
    cones = [clarabel.ZeroConeT(matrices.equalities)]
    if rows > matrices.equalities:
        cones.append(clarabel.NonnegativeConeT(rows - matrices.equalities))
    numbers = (matrices.P.data, matrices.q, matrices.A.data, matrices.b)
    outcome, residual, iterations, found = Outcome.FAILED, np.inf, 0, _Found(np.zeros(N), np.zeros(rows))
    if all(np.isfinite(part).all() for part in numbers):
        P, A = _clarabel_matrix(matrices.P, upper=True), _clarabel_matrix(matrices.A)
        solution = clarabel.DefaultSolver(P, matrices.q, A, matrices.b, cones, settings).solve()
        outcome, iterations = _OUTCOMES.get(str(solution.status), Outcome.FAILED), solution.iterations
        if outcome <= Outcome.INACCURATE:
            x, y = np.array(solution.x), np.array(solution.z)
            found, residual = _polished(matrices, x, y) if polish else (_Found(x, y), _residual(matrices, x, y))
            if residual <= ACCURATE:
                outcome = Outcome.SOLVED
            elif (
                rows == matrices.equalities
            ):  # nothing but a linear system, on which interior-point methods do not say why
                outcome = _without_inequalities(matrices)
            elif outcome == Outcome.SOLVED:
                outcome = Outcome.INACCURATE
    report.outcome.append(int(outcome))
    report.residual.append(float(residual))
    report.iterations.append(int(iterations))
    return found


ACCURATE = 1e-7
"""Relative residual of the optimality conditions below which a program counts as solved."""

_OUTCOMES = {
    "Solved": Outcome.SOLVED,
    "AlmostSolved": Outcome.INACCURATE,
    "InsufficientProgress": Outcome.INACCURATE,
    "NumericalError": Outcome.INACCURATE,
    "MaxIterations": Outcome.ITERATION_LIMIT,
    "PrimalInfeasible": Outcome.INFEASIBLE,
    "AlmostPrimalInfeasible": Outcome.INFEASIBLE,
    "DualInfeasible": Outcome.UNBOUNDED,
    "AlmostDualInfeasible": Outcome.UNBOUNDED,
}


def _without_inequalities(matrices: _Matrices) -> Outcome:
    """Why a program of equalities alone has no solution: they have none, or the cost falls without end along them."""
    import scipy.sparse as sp

    N, b = len(matrices.q), matrices.b
    nearest = replace(matrices, P=sp.eye_array(N, format="csc"), q=np.zeros(N))
    x = _active_system(nearest, np.ones(len(b), dtype=bool))(np.concatenate([nearest.q, b]))[:N]
    missed = _largest(matrices.A @ x - b) > ACCURATE * (1.0 + _largest(b))
    return Outcome.INFEASIBLE if missed else Outcome.UNBOUNDED


def _clarabel_matrix(matrix: Any, *, upper: bool = False) -> Any:
    import scipy.sparse as sp

    return sp.csc_matrix(sp.triu(matrix, format="csc") if upper else matrix)


def _polished(matrices: _Matrices, x: np.ndarray, y: np.ndarray) -> tuple[_Found, float]:
    """The solution of the system of active constraints where it is better than what is given, and its residual."""
    first = np.arange(len(y)) < matrices.equalities
    active = first | (y > matrices.b - matrices.A @ x)
    residual = _residual(matrices, x, y)
    system = _active_system(matrices, active)
    w = system(np.concatenate([-matrices.q, matrices.b[active]]))
    better_x, better_y = w[: len(x)], np.zeros_like(y)
    better_y[active] = w[len(x) :]
    better = _residual(matrices, better_x, better_y)
    if better <= residual:
        x, y, residual = better_x, better_y, better
    return _Found(x, y, matrices, active), residual


def _residual(matrices: _Matrices, x: np.ndarray, y: np.ndarray) -> float:
    """The largest violation of stationarity, feasibility and complementarity, relative to the terms that should cancel."""
    Px, Ay, Ax, n = matrices.P @ x, matrices.A.T @ y, matrices.A @ x, matrices.equalities
    slack, inequality = matrices.b - Ax, y[n:]
    dual_scale = 1.0 + max(_largest(Px), _largest(Ay), _largest(matrices.q))
    primal_scale = 1.0 + max(_largest(Ax), _largest(matrices.b))
    return max(
        _largest(Px + Ay + matrices.q) / dual_scale,
        _largest(slack[:n]) / primal_scale,
        _largest(np.maximum(-slack[n:], 0.0)) / primal_scale,
        _largest(np.maximum(-inequality, 0.0)) / dual_scale,
        _largest(np.minimum(np.maximum(slack[n:], 0.0) / primal_scale, np.maximum(inequality, 0.0) / dual_scale)),
    )


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


def _active_system(matrices: _Matrices, active: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The solver of the symmetric system of the active rows, which may be singular as long as it has a solution."""
    import scipy.sparse as sp
    import scipy.sparse.linalg

    rows = matrices.A.tocsr()[np.flatnonzero(active)]
    N, k = len(matrices.q), int(active.sum())
    K = sp.block_array([[matrices.P, rows.T], [rows, None]], format="csc")
    scale = 1.0 + _largest(matrices.P.data)
    shift = POLISHING * np.concatenate([np.full(N, scale), np.full(k, -1.0)])
    factor = scipy.sparse.linalg.splu((K + sp.diags_array(shift)).tocsc())

    def solve(right: np.ndarray) -> np.ndarray:
        w = factor.solve(right)
        best, size = w, np.inf
        for _ in range(REFINEMENTS):
            error = right - K @ w
            if not _largest(error) < size:
                break
            best, size = w, _largest(error)
            w = w + factor.solve(error)
        return best

    return solve
