"""Rapidly exploring random trees: what a plan claims is checked with the dynamics, the limits and the constraints alone."""

import math
from dataclasses import replace

import pytest
import torch

from dynamics import DoubleIntegrator, LinearDynamics, Pendulum, TorchDynamics
from planners import (
    ICEM,
    RRT,
    Equality,
    FunctionCost,
    GoalCost,
    GridGraph,
    Inequality,
    LinearInequality,
    Problem,
    Slack,
    SolveError,
    StateInequality,
    StateLimits,
    Status,
    TerminalState,
    shortest_path,
    solve,
)

START = torch.tensor([-2.0, -1.0, 0.0, 0.0]).double()
GOAL = torch.tensor([2.0, -1.0, 0.0, 0.0]).double()
SEEDS = range(5)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def wall(x):
    """Positive inside a wall about x = 0 of half width 0.25 m, with a gap at 0.9 < y < 1.5."""
    in_wall, beside_gap = 0.25 - x[..., 0].abs(), (x[..., 1] - 1.2).abs() - 0.3
    return torch.minimum(in_wall, beside_gap).unsqueeze(-1)


def maze(horizon=math.inf, **fields):
    fields = {"control_limits": (-2.0, 2.0), "constraints": (StateInequality(wall, name="wall"),), **fields}
    return Problem(DoubleIntegrator(2, dt=0.1), GoalCost(GOAL, 1.0), horizon, **fields)


MAZE_TOLERANCE = torch.tensor([0.2, 0.2, 0.3, 0.3]).double()
MAZE_RRT = RRT(goal_tolerance=MAZE_TOLERANCE, region=(-torch.tensor([3.0, 2, 2, 2]), torch.tensor([3.0, 2, 2, 2])))


def unicycle():
    def velocity(x, u):
        heading = x[..., 2]
        return torch.stack([u[..., 0] * heading.cos(), u[..., 0] * heading.sin(), u[..., 1]], dim=-1)

    return TorchDynamics(velocity, 3, 2, 0.1, integrator="rk4", angles=[2])


DISKS = torch.tensor([[1.0, 0.5], [2.0, -0.5], [3.0, 0.3], [1.5, 1.8]]).double()


def among_disks(horizon=math.inf):
    obstacles = StateInequality(lambda x: 0.5 - (x[..., None, :2] - DISKS.to(x)).norm(dim=-1), name="disks")
    limits = (torch.tensor([-0.3, -1.5]), torch.tensor([1.0, 1.5]))
    return Problem(unicycle(), GoalCost([4.0, 0.0, 0.0], 1.0), horizon, control_limits=limits, constraints=(obstacles,))


def swing_up(horizon=math.inf, **fields):
    fields = {"control_limits": (-3.0, 3.0), **fields}
    return Problem(Pendulum(0.05), GoalCost([0.0, 0.0], 1.0, angles=[0]), horizon, **fields)


UNICYCLE_RRT = RRT(goal_tolerance=[0.15, 0.15, 0.3], region=([-1.0, -2.0, -math.pi], [5.0, 2.0, math.pi]))
HANGING = torch.tensor([math.pi, 0.0]).double()
CASES = {
    "a point mass through a gap": (maze, START, MAZE_RRT),
    "a unicycle among disks": (among_disks, torch.zeros(3).double(), UNICYCLE_RRT),
    "a pendulum": (swing_up, HANGING, RRT(goal_tolerance=[0.1, 0.3], region=([-math.pi, -8.0], [math.pi, 8.0]))),
    "a pendulum, defaults": (swing_up, HANGING, RRT()),
}


def error_to_goal(problem, x):
    """By how much each component misses the goal; written here without the planner's own geometry."""
    d = x - problem.cost.goal
    for i in problem.dynamics.angles:
        d[..., i] = torch.atan2(d[..., i].sin(), d[..., i].cos())
    return d.abs()


def check_plan(problem, planner, x0, solution):
    """The plan is a rollout within limits and constraints."""
    T = solution.us.shape[-2]
    assert solution.xs.shape == (*x0.shape[:-1], T + 1, x0.shape[-1])
    torch.testing.assert_close(solution.xs, problem.dynamics.rollout(x0, solution.us), rtol=0.0, atol=1e-12)
    lower, upper = problem.limits_like(solution.us)
    assert bool(((solution.us >= lower) & (solution.us <= upper)).all())
    for constraint in problem.constraints:
        if constraint.of_state:  # the last state too
            assert float(constraint.value(solution.xs[..., 1:, :], None, None).max()) <= 1e-12
        else:
            steps = torch.arange(T)
            assert float(constraint.value(solution.xs[..., :-1, :], solution.us, steps).max()) <= 1e-12
    assert all(float(violation.max()) <= 1e-12 for violation in solution.violations.values())
    torch.testing.assert_close(solution.cost, problem.trajectory_cost(solution.xs, solution.us))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_plans_reach_the_goal(name, seed):
    make, x0, planner = CASES[name]
    problem = make()
    solution = solve(problem, planner, x0, generator=generator(seed))
    check_plan(problem, planner, x0, solution)
    assert int(solution.status) == Status.CONVERGED
    assert solution.us.shape[-2] == solution.stats["steps"]
    tolerance = torch.as_tensor(planner.goal_tolerance).double()
    assert bool((error_to_goal(problem, solution.xs[-1]) <= tolerance).all())
    assert not bool((error_to_goal(problem, solution.xs[:-1]) <= tolerance).all(-1).any())  # and ends there
    assert "converged" in str(solution)


def test_equal_generators_give_equal_plans():
    first, second = (solve(maze(), MAZE_RRT, START, generator=generator(3)) for _ in range(2))
    assert torch.equal(first.us, second.us)
    assert torch.equal(first.xs, second.xs)
    assert not torch.equal(first.us[:5], solve(maze(), MAZE_RRT, START, generator=generator(4)).us[:5])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_plan_is_faster_than_bang_bang(seed):
    """The time-optimal control accelerates to w and brakes to the goal's tolerance; a tree may take longer, never shorter."""
    problem = Problem(DoubleIntegrator(dt=0.05), GoalCost([4.0, 0.0], 1.0), math.inf, control_limits=(-1.0, 1.0))
    solution = solve(problem, RRT(goal_tolerance=[0.1, 0.1]), torch.zeros(2).double(), generator=generator(seed))
    assert int(solution.status) == Status.CONVERGED
    w = math.sqrt(3.9 + 0.1**2 / 2)  # w^2 / 2 + (w^2 - 0.1^2) / 2 = 4 - 0.1
    assert solution.stats["steps"] * 0.05 >= w + (w - 0.1) - 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["a point mass through a gap", "a unicycle among disks"])
def test_a_finite_horizon_is_kept_and_filled(name, seed):
    """A plan for a problem of T steps has T steps, and stays where it arrived."""
    make, x0, planner = CASES[name]
    problem = make(150)
    solution = solve(problem, planner, x0, generator=generator(seed))
    check_plan(problem, planner, x0, solution)
    assert int(solution.status) == Status.CONVERGED
    assert solution.us.shape[-2] == 150
    assert solution.stats["steps"] <= 150
    tolerance = torch.as_tensor(planner.goal_tolerance).double()
    arrived = solution.xs[solution.stats["steps"]]
    assert bool((error_to_goal(problem, arrived) <= tolerance).all())
    assert bool((error_to_goal(problem, solution.xs[-1]) <= tolerance + 0.1).all())


def test_no_branch_is_longer_than_the_horizon():
    """In 30 steps the gap and the goal are out of reach; what comes closest is returned."""
    problem = maze(30)
    solution = solve(problem, replace(MAZE_RRT, max_iterations=30), START)
    check_plan(problem, MAZE_RRT, START, solution)
    assert int(solution.status) == Status.ITERATION_LIMIT
    assert solution.stats["iterations"] == 30
    assert solution.us.shape == (30, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_closed_wall_gives_the_closest_branch(seed):
    closed = StateInequality(lambda x: 0.25 - x[..., :1].abs(), name="closed wall")
    problem = maze(constraints=(closed,))
    planner = replace(MAZE_RRT, max_iterations=20)
    solution = solve(problem, planner, START, generator=generator(seed))
    check_plan(problem, planner, START, solution)
    assert int(solution.status) == Status.ITERATION_LIMIT
    assert bool(solution.usable)
    half = torch.tensor([3.0, 2.0, 2.0, 2.0]).double()
    distances = (error_to_goal(problem, solution.xs) / half).norm(dim=-1)
    assert math.isclose(solution.stats["goal_distance"], float(distances[-1]), rel_tol=1e-9)
    assert float(distances[-1]) < float(distances[0])
    assert float(solution.xs[:, 0].max()) <= -0.25


def test_start_at_the_goal():
    for horizon, T in ((math.inf, 1), (7, 7)):
        solution = solve(maze(horizon), MAZE_RRT, GOAL)
        assert int(solution.status) == Status.CONVERGED
        assert (solution.stats["iterations"], solution.stats["steps"]) == (0, 0)
        assert torch.equal(solution.us, torch.zeros(T, 2).double())  # at rest, nothing is better than nothing


@pytest.mark.parametrize("horizon", [150, math.inf])
def test_a_batch_has_independent_trees(horizon):
    """Each problem its own plan, in a batch of two axes; with infinite horizon the shorter ones stay at the goal."""
    shift = torch.tensor([[0.0, 0.3], [-0.1, -0.3]]).double().unsqueeze(-1)
    x0 = START + shift * torch.tensor([0.5, 1.0, 0.0, 0.0]).double()
    problem = maze(horizon)
    solution = solve(problem, MAZE_RRT, x0, generator=generator(0))
    check_plan(problem, MAZE_RRT, x0, solution)
    assert bool((solution.status == int(Status.CONVERGED)).all())
    at_goal = (error_to_goal(problem, solution.xs) <= MAZE_TOLERANCE).all(-1)
    assert bool(at_goal.any(-1).all())
    first = at_goal.double().argmax(-1)
    assert solution.stats["steps"] == int(first.max())
    assert len(first.unique()) > 1


def test_single_precision():
    solution = solve(maze(150), MAZE_RRT, START.float(), generator=generator(1))
    assert solution.us.dtype == solution.xs.dtype == torch.float32
    assert int(solution.status) == Status.CONVERGED
    error = (solution.xs[solution.stats["steps"]] - GOAL.float()).abs()
    assert bool((error <= MAZE_TOLERANCE * (1 + 1e-6)).all())
    assert float(wall(solution.xs[1:]).max()) <= 0.0


def test_limits_that_change_and_steps_that_are_counted():
    """Time-varying dynamics and limits are read at the step of the plan, from t0 on."""
    T = 40
    A = torch.eye(2).double().repeat(50, 1, 1)
    B = (torch.linspace(0.5, 2.0, 50).double()[:, None, None] * torch.eye(2).double()) * 0.1
    upper = torch.linspace(0.2, 2.0, T).double().unsqueeze(-1).expand(T, 2)
    problem = Problem(LinearDynamics(A, B), GoalCost([1.0, -1.0], 1.0), T, control_limits=(-upper, upper))
    for t0 in (0, 10):
        solution = solve(problem, RRT(max_steps=5), torch.zeros(2).double(), t0=t0)
        assert int(solution.status) == Status.CONVERGED
        xs = problem.dynamics.rollout(torch.zeros(2).double(), solution.us, t0)
        torch.testing.assert_close(solution.xs, xs, rtol=0.0, atol=1e-12)
        assert bool((solution.us.abs() <= upper).all())
        assert float(solution.us.abs().max()) > 0.3
        assert bool((error_to_goal(problem, xs[solution.stats["steps"]]) <= 0.1).all())


def test_control_values():
    values = torch.tensor([[-3.0], [0.0], [3.0]])
    for horizon in (math.inf, 120):
        problem = swing_up(horizon, control_limits=None, control_values=values)
        solution = solve(problem, RRT(goal_tolerance=[0.2, 0.5]), HANGING)
        assert int(solution.status) == Status.CONVERGED
        assert set(solution.us.unique().tolist()) <= {-3.0, 0.0, 3.0}


def test_constraints_on_controls_and_states():
    """A limit of the power, which is a function of both."""
    power = Inequality(lambda x, u, t: (x[..., 2:] * u).sum(-1, keepdim=True) - 0.5, name="power")
    slow = StateLimits(-1.0, 1.0, states=[2, 3], name="speed")
    step_limit = Inequality(lambda x, u, t: u[..., :1] - 0.02 * torch.as_tensor(t)[..., None], name="late")
    problem = maze(constraints=(power, slow, step_limit))
    planner = replace(MAZE_RRT, region=(-torch.tensor([3.0, 2, 1, 1]), torch.tensor([3.0, 2, 1, 1])))
    for seed in range(2):
        solution = solve(problem, planner, START, generator=generator(seed))
        check_plan(problem, planner, START, solution)
        assert int(solution.status) == Status.CONVERGED
        assert set(solution.violations) == {"power", "speed", "late"}


def test_soft_constraints_are_priced_and_no_obstacles():
    soft = StateInequality(wall, name="wall", soft=Slack(linear=10.0))
    hard, priced, free = (maze(constraints=c) for c in (maze().constraints, (soft,), ()))
    through = solve(priced, MAZE_RRT, START, generator=generator(0))
    assert torch.equal(through.us, solve(free, MAZE_RRT, START, generator=generator(0)).us)
    assert float(through.cost) > float(free.trajectory_cost(through.xs, through.us))
    assert not torch.equal(through.us[:9], solve(hard, MAZE_RRT, START, generator=generator(0)).us[:9])


def test_terminal_constraints():
    """Part of the goal: arrive in its right half."""
    right = LinearInequality([[-1.0, 0.0, 0.0, 0.0]], d=-2.0, name="right half")
    for horizon in (math.inf, 150):
        problem = maze(horizon, terminal_constraints=(right,))
        solution = solve(problem, MAZE_RRT, START, generator=generator(2), throw=False)
        if horizon == math.inf:
            assert int(solution.status) == Status.CONVERGED
        assert bool(solution.usable) == (float(solution.xs[-1, 0]) >= 2.0 - 1e-12)


def test_a_crash_that_cannot_be_avoided():
    """At 3 m/s, 0.5 m before a wall: braking at 2 m/s^2 takes 2.25 m, and the error names the wall."""
    x0 = torch.tensor([-0.75, 0.0, 3.0, 0.0]).double()
    problem = maze(10)
    solution = solve(problem, replace(MAZE_RRT, max_iterations=5), x0, throw=False)
    assert int(solution.status) == Status.INFEASIBLE
    assert float(solution.cost) == math.inf
    assert float(solution.violations["wall"]) > 0
    with pytest.raises(SolveError, match="constraint 'wall' is violated by up to"):
        solve(problem, replace(MAZE_RRT, max_iterations=5), x0)


def test_states_that_are_not_finite_leave_the_others_alone():
    """Dynamics that blow up to one side."""

    def next_state(x, u):
        return torch.where(x > 1.0, torch.full_like(x, math.inf), x + 0.1 * u)

    problem = Problem(TorchDynamics(next_state, 1, 1, 0.1), GoalCost([-1.0], 1.0), 60, control_limits=(-1.0, 1.0))
    solution = solve(problem, RRT(), torch.tensor([[0.9], [math.nan], [0.0]]).double(), throw=False)
    assert [Status(int(s)).name for s in solution.status] == ["CONVERGED", "NO_FINITE_PLAN", "CONVERGED"]
    assert bool(solution.us.isfinite().all())
    assert bool(solution.xs[[0, 2]].isfinite().all())
    assert solution.stats["nonfinite"] > 0


def test_a_time_limit_returns_the_best_branch():
    calls = []
    solution = solve(maze(), MAZE_RRT, START, out_of_time=lambda: len(calls) == 2 or calls.append(0))
    assert int(solution.status) == Status.TIME_LIMIT
    assert solution.stats["iterations"] == 3
    check_plan(maze(), MAZE_RRT, START, solution)


def test_a_previous_plan_is_in_the_tree():
    """Solving again from there takes no iteration; nor does it from a state on the way, or as far as an obstacle allows."""
    problem = maze()
    first = solve(problem, MAZE_RRT, START, generator=generator(0))
    again = solve(problem, MAZE_RRT, START, init=first)
    assert again.stats["iterations"] == 0
    torch.testing.assert_close(again.xs, first.xs, rtol=0.0, atol=1e-12)
    steps = 17
    later = solve(problem, MAZE_RRT, first.xs[steps], t0=steps, init=first)
    assert later.stats["iterations"] == 0
    torch.testing.assert_close(later.us, first.us[steps:])
    moved = first.xs[steps] + torch.tensor([0.0, 0.5, 0.0, 0.0]).double()  # now it leads into the wall
    elsewhere = solve(problem, MAZE_RRT, moved, t0=steps, init=first)
    assert elsewhere.stats["iterations"] > 0
    check_plan(problem, MAZE_RRT, moved, elsewhere)
    assert int(elsewhere.status) == Status.CONVERGED
    with pytest.raises(ValueError, match="init has 2 controls, the problem 1"):
        solve(swing_up(), RRT(), HANGING, init=first)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_is_where_an_optimizer_starts(seed):
    problem = swing_up(100)
    start = solve(problem, RRT(), HANGING, generator=generator(seed))
    assert int(start.status) == Status.CONVERGED
    better = solve(problem, ICEM(max_iterations=2), HANGING, init=start, generator=generator(seed))
    assert float(better.cost) <= float(start.cost) + 1e-9
    assert start.controller().K.shape == (100, 1, 2)


def test_a_grid_path_shows_the_way():
    """The geometric path leads through the same gap as the tree's plan."""
    grid = GridGraph(torch.ones(31, 21), cell_size=0.2, origin=[-3.0, -2.0])
    centers = torch.cartesian_prod(*[torch.arange(size) for size in grid.shape])
    blocked = wall(grid.positions([tuple(c) for c in centers.tolist()])).squeeze(-1) > 0
    grid = replace(grid, obstacles=blocked.reshape(grid.shape))
    goal = grid.cell_at(GOAL[:2])
    path = shortest_path(grid, grid.cell_at(START[:2]), goal, grid.heuristic(goal))
    guess = path.resampled(61)
    assert guess.shape == (61, 2)
    assert float(wall(guess).max()) <= 0.0
    torch.testing.assert_close(guess[[0, -1]], torch.stack([START[:2], GOAL[:2]]))
    through = solve(maze(), MAZE_RRT, START).xs
    for line in (guess, through):
        crossing = line[line[:, 0].abs().argmin(), 1]
        assert 0.9 <= float(crossing) <= 1.5


def test_a_state_on_a_manifold():
    """A planar rotation as a unit vector: the tangent space is the angle."""

    class Circle(TorchDynamics):
        def difference(self, x1, x0):
            cross = x0[..., 0] * x1[..., 1] - x0[..., 1] * x1[..., 0]
            return torch.atan2(cross, (x0 * x1).sum(-1)).unsqueeze(-1)

        def retract(self, x, dx):
            c, s = dx[..., 0].cos(), dx[..., 0].sin()
            return torch.stack([c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]], dim=-1)

    def turn(x, u):
        c, s = (0.1 * u[..., 0]).cos(), (0.1 * u[..., 0]).sin()
        return torch.stack([c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]], dim=-1)

    circle = Circle(turn, 2, 1, 0.1)
    circle.tangent_dim = 1
    x0, goal = torch.tensor([1.0, 0.0]).double(), torch.tensor([-1.0, 0.0]).double()
    problem = Problem(circle, GoalCost(goal), math.inf, control_limits=(-1.0, 1.0))
    for planner in (RRT(), RRT(region=(-math.pi, math.pi), weights=2.0)):
        solution = solve(problem, planner, x0)
        assert int(solution.status) == Status.CONVERGED
        assert float(circle.difference(solution.xs[-1], goal).abs()) <= 0.1
        torch.testing.assert_close(solution.xs.norm(dim=-1), torch.ones(len(solution.xs)).double())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_iterations": 0}, "max_iterations must be an integer of at least 1, got 0"),
        ({"num_controls": 1.5}, "num_controls must be an integer of at least 1, got 1.5"),
        ({"max_steps": True}, "max_steps must be an integer"),
        ({"num_extensions": -1}, "num_extensions must be an integer"),
        ({"goal_bias": 1.1}, "goal_bias must be a probability, got 1.1"),
        ({"goal_bias": math.nan}, "goal_bias must be a probability, got nan"),
        ({"goal_tolerance": 0.0}, "goal_tolerance must be a number or one for each component, positive, got 0.0"),
        ({"goal_tolerance": [0.1, -0.1]}, r"positive, got \[0.1"),
        ({"weights": [0.0, 0.0]}, "not negative and not all zero"),
        ({"weights": math.nan}, "not negative and not all zero"),
        ({"goal": [0.0, math.inf]}, r"goal must be one finite state of shape \(n,\)"),
        ({"goal": torch.zeros(2, 2)}, r"goal must be one finite state of shape \(n,\)"),
        ({"region": (1.0, -1.0)}, r"region must be \(lower, upper\), finite, with lower <= upper"),
        ({"region": (0.0, math.inf)}, "region must be"),
        ({"region": 3.0}, "region must be"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        RRT(**fields)


@pytest.mark.parametrize(
    ("problem", "planner", "message"),
    [
        (swing_up(control_limits=None), RRT(), "RRT draws its controls between finite control_limits, got None"),
        (swing_up(control_limits=(-1.0, math.inf)), RRT(), "finite control_limits"),
        (
            replace(swing_up(), cost=FunctionCost(lambda x, u, t: x[..., 0])),
            RRT(),
            r"FunctionCost has no goal: RRT\(goal=",
        ),
        (
            replace(swing_up(), cost=GoalCost(torch.zeros(9, 2))),
            RRT(),
            r"one state of shape \(2,\) to reach, got a goal of \(9, 2\)",
        ),
        (swing_up(), RRT(goal=[0.0, 0.0, 0.0]), r"one state of shape \(2,\) to reach, got a goal of \(3,\)"),
        (swing_up(), RRT(weights=[1.0, 1.0, 1.0]), r"weights must be a number or have shape \(2,\), got \(3,\)"),
        (swing_up(), RRT(goal_tolerance=[0.1] * 3), r"goal_tolerance must be a number or have shape \(2,\)"),
        (swing_up(), RRT(region=(torch.zeros(3), 1.0)), r"lower bound of region must be a number or have shape \(2,\)"),
        (
            swing_up(constraints=(Equality(lambda x, u, t: u, name="none"),)),
            RRT(),
            "cannot honor equality constraints.*none",
        ),
        (
            swing_up(terminal_constraints=(TerminalState([0.0, 0.0]),)),
            RRT(),
            "cannot honor equality constraints.*TerminalState",
        ),
        (swing_up(rate_limits=(-1.0, 1.0)), RRT(), "RRT cannot honor: rate_limits"),
        (swing_up(termination=lambda x: x[..., 0] > 9), RRT(), "RRT cannot honor: termination"),
        (swing_up(constraints=(StateInequality(lambda x: x[..., 0] - 9),)), RRT(), r"must give rows \(\*batch, k\)"),
    ],
)
def test_problems_that_do_not_fit(problem, planner, message):
    with pytest.raises(ValueError, match=message):
        solve(problem, planner, HANGING)


def test_planners_with_other_fields_are_not_equal():
    assert RRT(goal_bias=0.1) != RRT(goal_bias=0.2)
    assert MAZE_RRT == MAZE_RRT
    assert len({MAZE_RRT, RRT()}) == 2
