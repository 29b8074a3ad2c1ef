"""The LQR against a dense solve of the optimality conditions, scipy's Riccati solver, long horizons and differences."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from dynamics import DoubleIntegrator, LinearDynamics, TorchDynamics
from planners import LQR, Problem, QuadraticCost, SolveError, Status, Unrolled, solve
from planners.riccati import LinearQuadratic, backward_pass

F64 = torch.float64


def rng(*key):
    return np.random.default_rng(key)


def tensor(value, dtype=F64):
    return torch.as_tensor(np.asarray(value), dtype=dtype)


def finite_case(n, m, T, seed=0, *, affine=True):
    """Random time-varying matrices with jointly convex stage costs, as numpy arrays by name."""
    r = rng(n, m, T, seed)
    joint = r.standard_normal((T, n + m, n + m))
    joint = joint @ joint.mT / (n + m) + 0.1 * np.eye(n + m)
    root = r.standard_normal((n, n))
    case = {
        "A": np.eye(n) + 0.4 * r.standard_normal((T, n, n)),
        "B": r.standard_normal((T, n, m)),
        "b": r.standard_normal((T, n)),
        "Q": joint[:, :n, :n],
        "N": joint[:, :n, n:],
        "R": joint[:, n:, n:],
        "q": r.standard_normal((T, n)),
        "r": r.standard_normal((T, m)),
        "Q_terminal": root @ root.T,
        "goal": r.standard_normal((T + 1, n)),
    }
    if not affine:
        for name in ("b", "q", "r", "goal"):
            case[name] = 0 * case[name]
    return case


def as_problem(case, horizon, discount=1.0, dtype=F64):
    v = {name: tensor(value, dtype) for name, value in case.items()}
    dynamics = LinearDynamics(v["A"], v["B"], v["b"])
    cost = QuadraticCost(v["Q"], v["R"], v["N"], v["q"], v["r"], v["Q_terminal"], v["goal"])
    return Problem(dynamics, cost, horizon, discount=discount)


def dense_optimum(case, x0, discount):
    """States, controls and cost from one linear system: the optimality conditions of all steps at once.

    The unknowns are (x_1 .. x_T, u_0 .. u_{T-1}) and a multiplier for each step's dynamics.
    """
    T, n, m = case["B"].shape
    nx, nu = T * n, T * m
    H, g = np.zeros((nx + nu, nx + nu)), np.zeros(nx + nu)
    E, e = np.zeros((nx, nx + nu)), np.zeros(nx)
    for t in range(T):
        w = discount**t
        Q, N, R, q, r, goal = (case[k][t] for k in ("Q", "N", "R", "q", "r", "goal"))
        u, x, y = slice(nx + t * m, nx + (t + 1) * m), slice((t - 1) * n, t * n), slice(t * n, (t + 1) * n)
        H[u, u] += w * R
        g[u] += w * (r - N.T @ goal)
        E[y, y], E[y, u], e[y] = np.eye(n), -case["B"][t], case["b"][t]
        if t == 0:
            g[u] += w * N.T @ x0
            e[y] += case["A"][t] @ x0
        else:
            H[x, x] += w * Q
            H[x, u] += w * N
            H[u, x] += w * N.T
            g[x] += w * (q - Q @ goal)
            E[y, x] = -case["A"][t]
    last = slice((T - 1) * n, nx)
    H[last, last] += discount**T * case["Q_terminal"]
    g[last] -= discount**T * case["Q_terminal"] @ case["goal"][T]
    kkt = np.block([[H, E.T], [E, np.zeros((nx, nx))]])
    z = np.linalg.solve(kkt, np.concatenate([-g, e]))[: nx + nu]
    xs, us = np.concatenate([x0[None], z[:nx].reshape(T, n)]), z[nx:].reshape(T, m)
    cost = 0.0
    for t in range(T):
        d, u = xs[t] - case["goal"][t], us[t]
        cost += discount**t * (0.5 * d @ case["Q"][t] @ d + d @ case["N"][t] @ u + 0.5 * u @ case["R"][t] @ u)
        cost += discount**t * (case["q"][t] @ d + case["r"][t] @ u)
    d = xs[T] - case["goal"][T]
    return xs, us, cost + discount**T * 0.5 * d @ case["Q_terminal"] @ d


def assert_is_optimum(solution, expected, rtol=1e-9):
    xs, us, cost = expected
    for ours, truth in ((solution.xs, xs), (solution.us, us), (solution.cost, cost)):
        scale = np.abs(truth).max()
        np.testing.assert_allclose(ours.double().numpy(), truth, rtol=0, atol=rtol * scale)


# Finite horizon


@pytest.mark.parametrize(
    ("n", "m", "T"), [(4, 2, 8), (3, 3, 5), (2, 4, 6), (1, 1, 1), (1, 1, 7), (5, 1, 1), (3, 2, 20)]
)
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_finite_horizon_solves_the_optimality_conditions(n, m, T, discount):
    case = finite_case(n, m, T)
    x0 = rng(7).standard_normal((5, n))
    problem = as_problem(case, T, discount)
    batch = solve(problem, LQR(), tensor(x0))
    truth = [dense_optimum(case, x, discount) for x in x0]
    assert_is_optimum(batch, [np.stack(part) for part in zip(*truth, strict=True)])
    assert_is_optimum(solve(problem, LQR(), tensor(x0[0])), truth[0])
    assert batch.status.tolist() == [Status.CONVERGED] * 5
    assert batch.K.shape == (5, T, m, n)
    assert batch.P.shape == (5, T + 1, n, n)
    assert batch.Quu.shape == (5, T, m, m)


def test_single_precision_is_as_good_as_its_digits():
    case, x0 = finite_case(4, 2, 8), rng(7).standard_normal((5, 4))
    solution = solve(as_problem(case, 8, dtype=torch.float32), LQR(), tensor(x0, torch.float32))
    assert {v.dtype for v in (solution.xs, solution.us, solution.cost, solution.K, solution.P)} == {torch.float32}
    truth = [dense_optimum(case, x, 1.0) for x in x0]
    assert_is_optimum(solution, [np.stack(part) for part in zip(*truth, strict=True)], rtol=2e-5)
    mixed = solve(as_problem(case, 8), LQR(), tensor(x0, torch.float32))  # a problem in double, a state in single
    assert mixed.us.dtype == torch.float32
    torch.testing.assert_close(mixed.us, solution.us, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_matrices_by_world(shape):
    cases = [finite_case(3, 2, 6, seed) for seed in range(3)]
    shared = cases[0]
    x0 = rng(8).standard_normal((*shape, 3))
    problem = as_problem(shared, 6, 0.95)
    A, b = (tensor([case[name] for case in cases]) for name in ("A", "b"))
    problem = Problem(
        problem.dynamics.with_parameters(A=A, b=b),
        problem.cost.with_reference(tensor([case["goal"] for case in cases])),
        6,
        discount=0.95,
    )
    solution = solve(problem, LQR(), tensor(x0))
    for world, case in enumerate(cases):
        own = {**shared, **{name: case[name] for name in ("A", "b", "goal")}}
        truth = [dense_optimum(own, x, 0.95) for x in x0[world].reshape(-1, 3)]
        for ours, i in ((solution.xs, 0), (solution.us, 1), (solution.cost, 2)):
            expected = np.stack([t[i] for t in truth]).reshape(ours[world].shape)
            np.testing.assert_allclose(ours[world].numpy(), expected, rtol=1e-9, atol=1e-9)


def test_one_matrix_for_each_world():
    A = np.eye(2) + 0.3 * rng(9).standard_normal((3, 2, 2))
    case = {k: v[:1].repeat(5, 0) for k, v in finite_case(2, 1, 5).items() if k not in ("goal", "Q_terminal")}
    case |= {"goal": np.zeros((6, 2)), "Q_terminal": np.eye(2)}
    problem = as_problem({**case, "A": case["A"][0]}, 5)
    problem = Problem(problem.dynamics.with_parameters(A=tensor(A)), problem.cost, 5)
    solution = solve(problem, LQR(), torch.ones(3, 2, dtype=F64))
    truth = [dense_optimum({**case, "A": a[None].repeat(5, 0)}, np.ones(2), 1.0) for a in A]
    assert_is_optimum(solution, [np.stack(part) for part in zip(*truth, strict=True)])


@pytest.mark.parametrize("t0", [0, 3])
def test_a_later_solve_goes_on_along_the_first(t0):
    case = finite_case(3, 2, 10)
    whole = solve(as_problem(case, 10), LQR(), torch.ones(3, dtype=F64))
    rest = solve(as_problem(case, 10 - t0), LQR(), whole.xs[t0], t0=t0)
    torch.testing.assert_close(rest.us, whole.us[t0:], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rest.P, whole.P[t0:], rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"given for steps 0\.\.9, got t=10"):
        solve(as_problem(case, 10), LQR(), torch.ones(3, dtype=F64), t0=1)


def test_bounded_lqr_benchmark_without_bounds():
    """The problem of FreyJo's solver comparison with limits so wide that none is active; published values."""
    random = np.random.RandomState(42)
    A, B, b = np.eye(8) + 0.2 * random.randn(8, 8), random.randn(8, 4), random.randn(8)
    x0 = random.randn(32, 8)
    assert A[0, 0] == pytest.approx(1.0993428306, abs=5e-11)
    eye = torch.eye(8, dtype=F64)
    cost = QuadraticCost(eye, torch.eye(4, dtype=F64), Q_terminal=eye)
    solution = solve(Problem(LinearDynamics(tensor(A), tensor(B), tensor(b)), cost, 20), LQR(), tensor(x0))
    assert float(solution.cost[0]) == pytest.approx(39.246480296, abs=5e-10)
    assert float(solution.cost[1]) == pytest.approx(70.641020579, abs=5e-10)
    assert float(solution.cost.sum()) == pytest.approx(2073.60322239, abs=5e-9)
    np.testing.assert_allclose(solution.us[0, 0], (-2.131651, 0.909898, 0.442298, -0.476020), atol=5e-7)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_value_hessians_give_the_cost_to_go(discount):
    case = finite_case(3, 2, 6, affine=False)
    solution = solve(as_problem(case, 6, discount), LQR(), tensor(rng(3).standard_normal((4, 3))))
    quadratic = 0.5 * torch.einsum("bti,btij,btj->bt", solution.xs, solution.P, solution.xs)
    torch.testing.assert_close(quadratic[:, 0], solution.cost, rtol=1e-12, atol=0)
    stage = solution.problem.cost.stage(solution.xs[:, :-1], solution.us, torch.arange(6))
    torch.testing.assert_close(quadratic[:, :-1], stage + discount * quadratic[:, 1:], rtol=1e-11, atol=0)


@pytest.mark.parametrize("horizon", [6, math.inf])
def test_gains_and_value_hessian_are_derivatives_by_the_initial_state(horizon):
    case = finite_case(3, 2, 6)
    if horizon == math.inf:
        case = {k: v[0] for k, v in case.items() if k != "Q_terminal"} | {"Q_terminal": np.zeros((3, 3))}
    problem = as_problem(case, horizon, 0.9)
    x0, h = torch.ones(3, dtype=F64), 1e-3  # the problem is quadratic: central differences have no truncation error
    at = solve(problem, LQR(), x0)
    plus, minus = (solve(problem, LQR(), x0 + s * h * torch.eye(3, dtype=F64)) for s in (1, -1))
    K, P = (at.K, at.P) if horizon == math.inf else (at.K[0], at.P[0])
    torch.testing.assert_close(((plus.us - minus.us)[:, 0] / (2 * h)).mT, K, rtol=1e-8, atol=1e-8)
    second = (plus.cost + minus.cost - 2 * at.cost) / h**2
    torch.testing.assert_close(second, P.diagonal(), rtol=1e-6, atol=1e-6)


def test_the_backward_pass_takes_matrices_without_a_batch():
    case = finite_case(3, 2, 6, affine=False)
    v = {name: tensor(case[name]) for name in ("A", "B", "b", "Q", "N", "R", "q", "r")}
    riccati = backward_pass(LinearQuadratic(**v, P_T=tensor(case["Q_terminal"]), p_T=torch.zeros(3, dtype=F64)))
    solution = solve(as_problem(case, 6), LQR(), torch.ones(3, dtype=F64))
    torch.testing.assert_close(riccati.K, solution.K, rtol=1e-12, atol=1e-12)
    assert bool(riccati.convex)
    assert riccati.k.abs().max() == 0.0


def test_steps_that_are_not_convex_are_found_by_element():
    A = torch.eye(1, dtype=F64).expand(3, 1, 1)
    problem = Problem(
        LinearDynamics(A[0], A[0]).with_parameters(B=torch.tensor([[[1.0]], [[0.1]], [[2.0]]], dtype=F64)),
        QuadraticCost([[1.0]], [[-0.5]], Q_terminal=[[1.0]]),  # Quu = -0.5 + B^2
        1,
    )
    solution = solve(problem, LQR(), torch.ones(3, 1, dtype=F64), throw=False)
    assert solution.status.tolist() == [Status.CONVERGED, Status.NOT_CONVEX, Status.CONVERGED]
    assert solution.cost.isinf().tolist() == [False, True, False]
    assert bool(solution.us.isfinite().all())
    with pytest.raises(
        SolveError, match=r"1 of 3 .*\n.*\n?not_convex x 1: .*make R \(or R \+ B'PB\) positive definite"
    ):
        solve(problem, LQR(), torch.ones(3, 1, dtype=F64))


# Infinite horizon


def stationary(A, B, Q, R, N=None, discount=1.0, **terms):
    eye = {k: tensor(v) for k, v in terms.items()}
    cost = QuadraticCost(
        tensor(Q), tensor(R), None if N is None else tensor(N), **{k: v for k, v in eye.items() if k != "b"}
    )
    return Problem(LinearDynamics(tensor(A), tensor(B), eye.get("b")), cost, math.inf, discount=discount)


def dare(A, B, Q, R, N=None, discount=1.0):
    w = math.sqrt(discount)
    return scipy.linalg.solve_discrete_are(w * np.asarray(A), w * np.asarray(B), Q, R, s=N)


def random_stationary(seed):
    """Unstable on average, with a cross term; sizes vary too."""
    r = rng(11, seed)
    n, m = int(r.integers(1, 7)), int(r.integers(1, 4))
    joint = r.standard_normal((n + m, n + m))
    joint = joint @ joint.T + 0.01 * np.eye(n + m)
    A = r.standard_normal((n, n)) * 1.5 / math.sqrt(n)
    return A, r.standard_normal((n, m)), joint[:n, :n], joint[n:, n:], joint[:n, n:]


def assert_solves_dare(problem, P_true, rtol=1e-9):
    n = problem.dynamics.state_dim
    solution = solve(problem, LQR(), torch.ones(n, dtype=F64))
    scale = np.abs(P_true).max()
    np.testing.assert_allclose(solution.P.numpy(), P_true, rtol=0, atol=rtol * scale)
    return solution


@pytest.mark.parametrize("discount", [1.0, 0.95, 0.5])
def test_random_riccati_equations_against_scipy(discount):
    for seed in range(40):
        A, B, Q, R, N = random_stationary(seed)
        P = dare(A, B, Q, R, N, discount)
        solution = assert_solves_dare(stationary(A, B, Q, R, N, discount), P)
        K = -np.linalg.solve(R + discount * B.T @ P @ B, N.T + discount * B.T @ P @ A)
        np.testing.assert_allclose(solution.K.numpy(), K, rtol=0, atol=1e-8 * max(1.0, np.abs(K).max()))
        assert solution.stats["iterations"] <= 20


INTEGRATOR = (np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]]))
HARD = {
    "very unstable": (np.diag([30.0, 1.01]), np.ones((2, 1)), np.eye(2), np.eye(1)),
    "close to the circle, lightly charged": (
        np.array([[0.99999, 0.1], [0.0, 0.99999]]),
        np.array([[0.0], [0.1]]),
        1e-6 * np.eye(2),
        np.eye(1),
    ),
    "rotation": (
        np.array([[math.cos(0.1), math.sin(0.1)], [-math.sin(0.1), math.cos(0.1)]]),
        np.array([[0.0], [1.0]]),
        np.diag([1e-3, 0.0]),
        np.eye(1),
    ),
    "one of two states is seen": (*INTEGRATOR, np.diag([1.0, 0.0]), np.eye(1)),
    "stable state not controlled": (np.diag([1.2, 0.5]), np.array([[1.0], [0.0]]), np.eye(2), np.eye(1)),
    "cheap control": (*INTEGRATOR, np.eye(2), 1e-8 * np.eye(1)),
    "expensive control": (*INTEGRATOR, np.eye(2), 1e6 * np.eye(1)),
    "singular A": (np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]]), np.eye(2), np.eye(1)),
    "small numbers": (np.eye(1), np.eye(1), 1e-12 * np.eye(1), 1e-12 * np.eye(1)),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_riccati_equations_against_scipy(name):
    solution = assert_solves_dare(stationary(*HARD[name]), dare(*HARD[name]), rtol=1e-7)
    assert solution.stats["residual"] < 1e-10


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_a_residual_counts_relative_to_the_cost(size):
    problem = stationary([[1.0]], [[1.0]], [[size]], [[size]])
    early = solve(problem, LQR(max_iterations=2), torch.ones(1, dtype=F64), throw=False)
    assert not bool(early.usable)  # P is still wrong in its third digit
    assert bool(solve(problem, LQR(max_iterations=8), torch.ones(1, dtype=F64)).usable)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_iterations": 0}, "max_iterations must be an integer of at least 1, got 0"),
        ({"max_iterations": 2.0}, "max_iterations must be an integer of at least 1, got 2.0"),
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"tolerance": math.nan}, "tolerance must be positive, got nan"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LQR(**fields)


def test_golden_ratio():
    """P = 1 + P - P^2 / (1 + P): the smallest Riccati equation has the golden ratio as its solution."""
    solution = solve(stationary([[1.0]], [[1.0]], [[1.0]], [[1.0]]), LQR(), torch.tensor([2.0], dtype=F64))
    golden = (1 + math.sqrt(5)) / 2
    assert float(solution.P) == pytest.approx(golden, rel=1e-15)
    assert float(solution.cost) == pytest.approx(2 * golden, rel=1e-14)
    assert float(solution.us) == pytest.approx(-2 / golden, rel=1e-14)


@pytest.mark.parametrize("discount", [1.0, 0.95])
def test_the_infinite_horizon_is_the_limit_of_long_ones(discount):
    for seed in range(4):
        A, B, Q, R, N = random_stationary(seed)
        problem = stationary(A, B, Q, R, N, discount)
        x0 = tensor(rng(12, seed).standard_normal((3, len(A))))
        infinite = solve(problem, LQR(), x0)
        long = solve(Problem(problem.dynamics, problem.cost, 300, discount=discount), LQR(), x0)
        torch.testing.assert_close(infinite.cost, long.cost, rtol=1e-9, atol=0)
        torch.testing.assert_close(infinite.us[:, 0], long.us[:, 0], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(infinite.xs, long.xs[:, :2], rtol=1e-8, atol=1e-8)


def test_affine_terms_with_discount_are_the_limit_of_long_horizons():
    for seed in range(4):
        A, B, Q, R, N = random_stationary(seed)
        (n, m), r = B.shape, rng(13, seed)
        terms = {"b": r.standard_normal(n), "q": r.standard_normal(n), "r": r.standard_normal(m)}
        problem = stationary(A, B, Q, R, N, 0.9, **terms, goal=r.standard_normal(n))
        x0 = tensor(r.standard_normal((4, n)))
        infinite = solve(problem, LQR(), x0)
        long = solve(Problem(problem.dynamics, problem.cost, 250, discount=0.9), LQR(), x0)
        torch.testing.assert_close(infinite.cost, long.cost, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(infinite.us[:, 0], long.us[:, 0], rtol=1e-8, atol=1e-8)


def test_a_goal_that_can_be_held_costs_nothing_in_the_end():
    A, B = INTEGRATOR
    problem = stationary(A, B, np.eye(2), np.eye(1), goal=[1.5, 0.0])
    x0 = tensor([[0.0, 0.0], [1.5, 0.0], [-2.0, 1.0]])
    solution = solve(problem, LQR(), x0)
    d = x0.numpy() - np.array([1.5, 0.0])
    np.testing.assert_allclose(
        solution.cost.numpy(), 0.5 * np.einsum("bi,ij,bj->b", d, dare(A, B, np.eye(2), np.eye(1)), d), atol=1e-10
    )
    assert abs(float(solution.us[1])) < 1e-9


def test_the_double_integrator_is_taken_to_its_goal():
    system = DoubleIntegrator()
    A, B = (getattr(system.linearize(torch.zeros(2, dtype=F64), torch.zeros(1, dtype=F64)), f) for f in ("fx", "fu"))
    problem = stationary(A, B, np.eye(2), np.eye(1), goal=[1.0, 0.0])
    controller = solve(problem, LQR(), torch.zeros(2, dtype=F64)).controller()
    x, memory = torch.tensor([-3.0, 2.0], dtype=F64), controller.init()
    for _ in range(2000):
        u, memory = controller.act(x, memory)
        x = system(x, u)
    torch.testing.assert_close(x, torch.tensor([1.0, 0.0], dtype=F64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("goal", [[1.0, 1.0], [1.0, 1e-6]], ids=["moving", "barely moving"])
def test_a_goal_that_cannot_be_held_costs_without_end(goal):
    problem = stationary(*INTEGRATOR, np.eye(2), np.eye(1), goal=goal)  # with a velocity, the position drifts off
    solution = solve(problem, LQR(), torch.zeros(2, dtype=F64), throw=False)
    assert Status(int(solution.status)) is Status.NOT_STABILIZABLE
    assert float(solution.cost) == math.inf
    discounted = stationary(*INTEGRATOR, np.eye(2), np.eye(1), discount=0.99, goal=goal)
    assert bool(solve(discounted, LQR(), torch.zeros(2, dtype=F64)).cost.isfinite())


UNSOLVABLE = {
    "unstable mode without control": (np.diag([1.2, 0.5]), np.array([[0.0], [1.0]]), np.eye(2), np.eye(1)),
    "integrator without control": (np.eye(1), np.zeros((1, 1)), np.eye(1), np.eye(1)),
    "integrator without cost": (np.eye(1), np.eye(1), np.zeros((1, 1)), np.eye(1)),
    "unstable modes without cost": (np.diag([2.0, 1.5]), np.ones((2, 1)), np.zeros((2, 2)), np.eye(1)),
    "nothing to control": (1.1 * np.eye(2), np.zeros((2, 1)), np.eye(2), np.eye(1)),
}


@pytest.mark.parametrize("name", UNSOLVABLE)
def test_problems_without_a_stabilizing_solution_are_reported(name):
    problem = stationary(*UNSOLVABLE[name])
    n = problem.dynamics.state_dim
    solution = solve(problem, LQR(), torch.ones(n, dtype=F64), throw=False)
    assert Status(int(solution.status)) is Status.NOT_STABILIZABLE
    assert float(solution.cost) == math.inf
    assert bool(solution.us.isfinite().all())
    with pytest.raises(SolveError, match=r"check that \(A, B\) is stabilizable and that the cost sees every unstable"):
        solve(problem, LQR(), torch.ones(n, dtype=F64))


def test_discount_makes_a_slowly_unstable_mode_affordable():
    A, B, Q, R = UNSOLVABLE["unstable mode without control"]
    solution = solve(stationary(A, B, Q, R, discount=0.5), LQR(), tensor([1.0, 0.0]))
    # x_t = 1.2^t costs half of the sum of (0.5 * 1.44)^t
    assert float(solution.cost) == pytest.approx(0.5 / (1 - 0.72), rel=1e-12)


def test_good_and_bad_elements_do_not_touch_each_other():
    A = np.array([[[1.1]], [[1.1]], [[0.9]], [[1.0]], [[2.0]]])
    B = np.array([[[1.0]], [[0.0]], [[0.0]], [[0.0]], [[0.5]]])
    shared = stationary(np.eye(1), np.eye(1), np.eye(1), np.eye(1))
    dynamics = shared.dynamics.with_parameters(A=tensor(A), B=tensor(B))
    problem = Problem(dynamics, shared.cost, math.inf)
    x0 = torch.tensor([[1.0], [1.0], [2.0], [1.0], [3.0]], dtype=F64)
    solution = solve(problem, LQR(), x0, throw=False)
    bad = [False, True, False, True, False]
    assert (solution.status == int(Status.NOT_STABILIZABLE)).tolist() == bad
    assert solution.cost.isinf().tolist() == bad
    for i in (0, 2, 4):
        P = float(dare(A[i], B[i], np.eye(1), np.eye(1))[0, 0])
        assert float(solution.cost[i]) == pytest.approx(0.5 * P * float(x0[i]) ** 2, rel=1e-11)
    with pytest.raises(SolveError, match="2 of 5 problems"):
        solve(problem, LQR(), x0)


@pytest.mark.parametrize("horizon", [5, math.inf])
def test_a_state_that_is_not_finite_concerns_its_element_only(horizon):
    problem = stationary(*INTEGRATOR, np.eye(2), np.eye(1), goal=[1.0, 0.0])
    problem = Problem(problem.dynamics, problem.cost, horizon)
    x0 = torch.ones(4, 2, dtype=F64)
    x0[1, 0], x0[2, 1] = math.nan, math.inf
    solution = solve(problem, LQR(), x0, throw=False)
    assert solution.status.tolist() == [Status.CONVERGED, *[Status.NO_FINITE_PLAN] * 2, Status.CONVERGED]
    alone = solve(problem, LQR(), x0[0])
    torch.testing.assert_close(solution.cost[0], alone.cost, rtol=1e-13, atol=0)
    torch.testing.assert_close(solution.us[3], alone.us, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("R", [[[-1.0]], [[0.0]]], ids=["negative", "zero"])
def test_control_that_costs_nothing_is_not_convex(R):
    for horizon in (3, math.inf):
        problem = stationary([[1.0]], [[1.0]], [[0.1]], R)
        solution = solve(
            Problem(problem.dynamics, problem.cost, horizon), LQR(), torch.ones(2, 1, dtype=F64), throw=False
        )
        assert solution.status.tolist() == [Status.NOT_CONVEX] * 2
        assert "make R (or R + B'PB) positive definite" in solution.summary()


def test_a_reward_for_the_state_can_make_the_infinite_horizon_not_convex():
    problem = stationary([[1.0]], [[1.0]], [[-0.5]], [[1.0]])  # P = Q + P / (1 + P) has no real solution
    solution = solve(problem, LQR(), torch.ones(1, dtype=F64), throw=False)
    assert not bool(solution.usable)
    assert float(solution.cost) == math.inf


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_infinite_horizon_in_single_precision(discount):
    A, B, Q, R, N = random_stationary(3)
    problem, x0 = stationary(A, B, Q, R, N, discount), tensor(rng(1).standard_normal((3, len(A))))
    single, double = solve(problem, LQR(), x0.float()), solve(problem, LQR(), x0)
    assert single.us.dtype == single.P.dtype == torch.float32
    torch.testing.assert_close(single.cost.double(), double.cost, rtol=1e-3, atol=0)


def test_an_infinite_horizon_needs_one_problem_for_all_steps():
    eye = torch.eye(1)
    for dynamics, cost, message in (
        (
            LinearDynamics(eye.expand(4, 1, 1), eye),
            QuadraticCost(eye, eye),
            "but A is given for 4 steps; set horizon=4",
        ),
        (LinearDynamics(eye, eye), QuadraticCost(eye, eye, goal=torch.zeros(3, 1)), "set a finite horizon"),
        (LinearDynamics(eye, eye), QuadraticCost(eye.expand(3, 1, 1), eye), "goal or a coefficient is given by step"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(Problem(dynamics, cost, math.inf), LQR(), torch.ones(1))


# Batches of other sizes


@pytest.mark.parametrize("horizon", [1, 4, math.inf])
@pytest.mark.parametrize("batch", [(0,), (1,), (2, 0), (2, 3), ()])
def test_batches_of_all_sizes(horizon, batch):
    problem = stationary(*INTEGRATOR, np.eye(2), np.eye(1), goal=[1.0, 0.0])
    problem = Problem(problem.dynamics, problem.cost, horizon)
    solution = solve(problem, LQR(), torch.ones(*batch, 2, dtype=F64))
    T = 1 if horizon == math.inf else horizon
    steps = () if horizon == math.inf else (T,)
    assert solution.xs.shape == (*batch, T + 1, 2)
    assert solution.us.shape == (*batch, T, 1)
    assert solution.cost.shape == solution.status.shape == solution.usable.shape == batch
    assert solution.K.shape == (*batch, *steps, 1, 2)
    assert solution.Quu.shape == (*batch, *steps, 1, 1)
    single = solve(problem, LQR(), torch.ones(2, dtype=F64))
    torch.testing.assert_close(solution.cost, single.cost.expand(batch), rtol=1e-13, atol=0)
    torch.testing.assert_close(solution.K, single.K.expand(solution.K.shape), rtol=1e-13, atol=0)


def test_goals_by_world_need_a_state_by_world():
    goal = torch.zeros(3, 1, 2)
    problem = Problem(
        LinearDynamics(torch.eye(2), torch.eye(2)), QuadraticCost(torch.eye(2), torch.eye(2), goal=goal), 4
    )
    with pytest.raises(ValueError, match=r"a reference \(\*batch, L, n\) needs the batch axes of x0"):
        solve(problem, LQR(), torch.zeros(2))


# Gradients


@pytest.mark.parametrize("horizon", [4, math.inf])
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_gradients_by_everything(horizon, discount):
    r, n, m, W = rng(21), 2, 1, 2
    joint = r.standard_normal((n + m, n + m))
    joint = joint @ joint.T + 0.1 * np.eye(n + m)
    affine = discount < 1 or horizon != math.inf  # otherwise the cost of an affine problem is infinite
    values = {
        "x0": r.standard_normal((W, n)),
        "A": np.eye(n) + 0.4 * r.standard_normal((W, n, n)),
        "B": r.standard_normal((n, m)),
        "b": affine * r.standard_normal((W, n)),
        "Q": joint[:n, :n],
        "R": joint[n:, n:],
        "N": joint[:n, n:],
        "q": affine * r.standard_normal(n),
        "goal": affine * r.standard_normal(n),
    }

    def plan(*tensors):
        v = dict(zip(values, tensors, strict=True))
        Q, R = (0.5 * (v[k] + v[k].mT) for k in ("Q", "R"))
        dynamics = LinearDynamics(torch.eye(n), torch.ones(n, m), torch.zeros(n))
        dynamics = dynamics.with_parameters(A=v["A"], B=v["B"], b=v["b"])
        cost = QuadraticCost(Q, R, v["N"], v["q"], Q_terminal=2 * Q, goal=v["goal"])
        problem = Problem(dynamics, cost, horizon, discount=discount)
        solution = solve(problem, LQR(), v["x0"], gradient=Unrolled())
        return solution.us, solution.cost, solution.xs, solution.K, solution.P

    inputs = [tensor(value).requires_grad_(affine or k not in ("b", "q", "goal")) for k, value in values.items()]
    assert torch.autograd.gradcheck(plan, inputs, atol=1e-6, rtol=1e-5)


def test_gradients_reach_a_parameter_of_the_cost():
    w = torch.nn.Parameter(torch.eye(2, dtype=F64))
    problem = Problem(stationary(*INTEGRATOR, np.eye(2), np.eye(1)).dynamics, QuadraticCost(w, torch.eye(1)), 10)
    x0 = torch.ones(2, dtype=F64)
    solution = solve(problem, LQR(), x0, gradient=Unrolled())
    solution.cost.backward()
    # by the envelope theorem only the explicit dependence counts: half the sum of x x'
    xs = solution.xs.detach()[:-1]
    torch.testing.assert_close(w.grad, 0.5 * xs.mT @ xs, rtol=1e-10, atol=1e-12)


def test_gradients_reach_a_parameter_of_the_dynamics():
    A = torch.nn.Parameter(tensor(INTEGRATOR[0]))
    dynamics = LinearDynamics(A, tensor(INTEGRATOR[1]))
    assert list(dynamics.parameters()) == [A]
    problem = Problem(dynamics, QuadraticCost(torch.eye(2), torch.eye(1)), math.inf)
    solve(problem, LQR(), torch.ones(2, dtype=F64), gradient=Unrolled()).cost.backward()
    h = 1e-6

    def cost(i, j, step):
        moved = INTEGRATOR[0].copy()
        moved[i, j] += step
        return 0.5 * dare(moved, INTEGRATOR[1], np.eye(2), np.eye(1)).sum()

    expected = [[(cost(i, j, h) - cost(i, j, -h)) / (2 * h) for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(A.grad.numpy(), expected, rtol=1e-6)


def test_other_dynamics_are_refused():
    problem = Problem(TorchDynamics(lambda x, u: x + u, 1, 1, 0.1), QuadraticCost(torch.eye(1), torch.eye(1)), 5)
    with pytest.raises(ValueError, match=r"LQR needs LinearDynamics .*got TorchDynamics .*use ICEM\(\)"):
        solve(problem, LQR(), torch.zeros(1))
