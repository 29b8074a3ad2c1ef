"""Receding-horizon control: a pure step, the fallback, the budget, references, parameters."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.linalg
import torch

from dynamics import DoubleIntegrator, Dynamics, LinearDynamics, Pendulum
from planners import ICEM, LQR, MPC, FunctionCost, GoalCost, Problem, QuadraticCost, SmoothAbsCost, Status, solve

EYE1, EYE2 = torch.eye(1, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]]).double(), torch.tensor([[0.005], [0.1]]).double()


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def regulator(horizon=20, B=B, **cost):
    return Problem(LinearDynamics(A, B), QuadraticCost(EYE2, 0.1 * EYE1, Q_terminal=EYE2, **cost), horizon)


def pendulum(horizon=10, **fields):
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.01], angles=[0])
    return Problem(Pendulum(), cost, horizon, control_limits=(-2.0, 2.0), **fields)


def run(mpc, dynamics, x, steps, state=None, **options):
    """Closed loop: states ``(steps + 1, *batch, n)``, controls ``(steps, *batch, m)``, the last state of the loop."""
    state = state or mpc.init(x)
    xs, us = [x], []
    for _ in range(steps):
        u, state = mpc.step(state, xs[-1], **options)
        us.append(u)
        xs.append(dynamics(xs[-1], u))
    return torch.stack(xs), torch.stack(us), state


class BreaksAt(Dynamics):
    """A double integrator whose model is NaN from a step of the clock on."""

    def __init__(self, step):
        super().__init__(2, 1, 0.1)
        self.sound, self.step = DoubleIntegrator(dt=0.1), step

    def forward(self, x, u, t=None):
        x_next = self.sound(x, u)
        return x_next if t < self.step else x_next * float("nan")


class Clock:
    """Advances by some seconds whenever it is read."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


# A step is a pure function


def test_equal_states_give_equal_controls():
    mpc, x = MPC(pendulum(), ICEM()), tensor(3.0, 0.0)
    _, state = mpc.step(mpc.init(x), x)
    u1, next1 = mpc.step(state, x + 0.1)
    mpc.step(next1, x - 1)
    u2, next2 = mpc.step(state, x + 0.1)
    assert torch.equal(u1, u2)
    assert torch.equal(next1.solution.us, next2.solution.us)
    assert torch.equal(next1.generator.get_state(), next2.generator.get_state())
    assert (state.time, next1.time) == (1, 2)


def test_the_generator_advances_in_the_state_and_nowhere_else():
    generator = torch.Generator().manual_seed(5)
    before, global_state = generator.get_state(), torch.get_rng_state()
    mpc, x = MPC(pendulum(), ICEM()), tensor(3.0, 0.0)
    first = mpc.init(x, generator=generator)
    start = first.generator.get_state()
    _, second = mpc.step(first, x)
    _, third = mpc.step(second, x)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(first.generator.get_state(), start)
    assert torch.equal(start, before)
    assert not torch.equal(second.generator.get_state(), start)
    assert not torch.equal(third.generator.get_state(), second.generator.get_state())
    torch.rand(1, generator=generator)  # the caller's own business
    again, _ = mpc.step(first, x)
    assert torch.equal(again, second.previous_control)
    other, _ = mpc.step(mpc.init(x, generator=torch.Generator().manual_seed(6)), x)
    assert not torch.equal(other, second.previous_control)


def test_the_state_reports():
    mpc, x = MPC(pendulum(), ICEM()), tensor([3.0, 0.0], [1.0, 0.0])
    state = mpc.init(x)
    assert state.solution is None
    assert state.previous_control is None
    u, state = mpc.step(state, x)
    assert torch.equal(state.previous_control, u)
    assert state.solution.stats["seconds"] > 0
    assert state.fallbacks.tolist() == [0, 0]
    assert state.overruns == 0
    assert (u.shape, u.dtype) == ((2, 1), torch.float64)


def test_it_acts_like_a_policy():
    mpc, x = MPC(pendulum(), ICEM()), tensor([3.0, 0.0], [1.0, 0.0])
    generator = torch.Generator().manual_seed(3)
    memory = mpc.init(2, generator=generator)
    state = mpc.init(x, generator=generator)
    assert memory.fallbacks.shape == mpc.init((2,)).fallbacks.shape == (2,)
    for _ in range(3):
        u, memory = mpc.act(x, memory, deterministic=True)
        expected, state = mpc.step(state, x)
        assert torch.equal(u, expected)
    assert mpc.acts_on == "state"


def test_controls_carry_no_graph():
    x = tensor(3.0, 0.0).requires_grad_()
    for mpc in (MPC(pendulum(), ICEM()), MPC(regulator(), LQR())):
        u, state = mpc.step(mpc.init(x), x)
        u2, _ = mpc.step(state, x * float("nan"))
        assert not u.requires_grad
        assert not u2.requires_grad


def test_float32_stays_float32():
    mpc, x = MPC(pendulum(), ICEM()), torch.tensor([3.0, 0.0])
    _, us, state = run(mpc, Pendulum(), x, 3)
    assert us.dtype == state.solution.xs.dtype == torch.float32


def test_a_batch_of_loops_with_limits_of_their_own():
    limits = tensor(0.5, 1.0, 2.0).reshape(3, 1, 1)
    mpc = MPC(replace(pendulum(), control_limits=(-limits, limits)), ICEM())
    _, us, _ = run(mpc, Pendulum(), tensor(3.0, 0.0).expand(3, 2), 5)
    assert (us.abs().amax(0).squeeze(-1) <= tensor(0.5, 1.0, 2.0)).all()
    assert (us.abs().amax(0).squeeze(-1) > tensor(0.4, 0.8, 1.6)).all()  # swinging up takes all there is


# Closed loop


def test_mpc_with_a_long_horizon_is_the_infinite_horizon_regulator():
    Q, R = np.eye(2), 0.1 * np.eye(1)
    P = scipy.linalg.solve_discrete_are(A.numpy(), B.numpy(), Q, R)
    K = -np.linalg.solve(R + B.numpy().T @ P @ B.numpy(), B.numpy().T @ P @ A.numpy())
    slowest = np.abs(np.linalg.eigvals(A.numpy() + B.numpy() @ K)).max()
    x = tensor([1.0, 0.0], [-2.0, 3.0])
    for problem, tolerance in ((regulator(80), 50 * slowest**160), (replace(regulator(), horizon=math.inf), 1e-9)):
        xs, us, state = run(MPC(problem, LQR()), problem.dynamics, x, 20)
        expected = xs[:-1] @ torch.as_tensor(K).T
        torch.testing.assert_close(us, expected, rtol=0, atol=max(tolerance, 1e-9))
        assert state.fallbacks.sum() == 0


def swing_up(seed, steps=100):
    """Ten pendulums from near hanging, torque 3 N m of the 4.9 that gravity asks for: (angles, state)."""
    cost = SmoothAbsCost(state_weights=[1.0, 0.0], angles=[0]) + GoalCost([0.0, 0.0], [0.0, 0.02], [0.005])
    mpc = MPC(Problem(Pendulum(0.05), cost, 30, control_limits=(-3.0, 3.0)), ICEM())
    generator = torch.Generator().manual_seed(seed)
    x = tensor(math.pi, 0.0) + 0.3 * torch.randn(10, 2, generator=generator, dtype=torch.float64)
    xs, us, state = run(mpc, Pendulum(0.05), x, steps, mpc.init(x, generator=generator))
    assert float(us.abs().max()) <= 3.0
    return torch.atan2(xs[..., 0].sin(), xs[..., 0].cos()), state


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_the_pendulum_swings_up_and_stays(seed):
    angles, state = swing_up(seed)
    assert (angles[0].abs() > 2).all()
    assert (angles[-20:].abs() < 0.2).all(), angles[-20:].abs().amax(0)  # the last second
    assert state.fallbacks.sum() == 0


# References and parameters


def test_a_constant_reference_is_reached():
    mpc = MPC(regulator(40), LQR())
    xs, _, _ = run(mpc, mpc.problem.dynamics, tensor(0.0, 0.0), 150, reference=tensor(2.0, 0.0))
    torch.testing.assert_close(xs[-1], tensor(2.0, 0.0), rtol=0, atol=1e-3)


def test_a_reference_by_step_is_the_goal_of_each_solve():
    problem, x = regulator(5), tensor([1.0, 0.0], [0.0, 1.0])
    reference = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mpc = MPC(problem, LQR())
    _, state = mpc.step(mpc.init(x), x)
    u, _ = mpc.step(state, x, reference=reference)
    explicit = replace(problem, cost=QuadraticCost(EYE2, 0.1 * EYE1, Q_terminal=EYE2, goal=reference))
    torch.testing.assert_close(u, solve(explicit, LQR(), x).us[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("planner", [LQR(), ICEM()], ids=["LQR", "ICEM"])
def test_a_reference_inside_the_cost_moves_with_the_clock(planner):
    T, limits = 6, None if isinstance(planner, LQR) else (-20.0, 20.0)
    path = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = MPC(replace(regulator(T, goal=path), control_limits=limits), planner)
    outside = MPC(replace(regulator(T), control_limits=limits), planner)
    x1 = x2 = tensor(1.0, 0.0)
    state1, state2 = inside.init(x1), outside.init(x2)
    for t in range(10):
        rows = path[[min(t + k, len(path) - 1) for k in range(T + 1)]]
        u1, state1 = inside.step(state1, x1)
        u2, state2 = outside.step(state2, x2, reference=rows)
        torch.testing.assert_close(u1, u2, rtol=0, atol=1e-9)
        x1 = x2 = inside.problem.dynamics(x1, u1)


def test_a_cost_without_a_reference_says_so():
    mpc = MPC(replace(pendulum(), cost=FunctionCost(lambda x, u, t: x.square().sum(-1))), ICEM())
    with pytest.raises(TypeError, match="FunctionCost has no reference to replace"):
        mpc.step(mpc.init(()), tensor(1.0, 0.0), reference=tensor(0.0, 0.0))


def test_parameters_change_the_model_of_this_step_only():
    x, plant = tensor(1.0, 0.0), LinearDynamics(A, 0.3 * B)
    wrong, right = MPC(regulator(30), LQR()), MPC(regulator(30, B=0.3 * B), LQR())
    informed, _ = wrong.step(wrong.init(x), x, parameters={"B": 0.3 * B})
    expected, _ = right.step(right.init(x), x)
    assert torch.equal(informed, expected)
    assert torch.equal(wrong.problem.dynamics.B, B)

    def closed_loop_cost(mpc, **options):
        xs, us, _ = run(mpc, plant, x, 60, **options)
        return float(replace(regulator(60), dynamics=plant).trajectory_cost(xs, us))

    assert closed_loop_cost(wrong, parameters={"B": 0.3 * B}) < 0.99 * closed_loop_cost(wrong)


def test_parameters_per_world():
    gains, x = tensor(0.5, 2.0), tensor(1.0, 0.0).expand(2, 2)
    cost = SmoothAbsCost([0.0, 0.0], [1.0, 0.1], [0.01])
    mpc = MPC(Problem(DoubleIntegrator(dt=0.1), cost, 8, control_limits=(-2.0, 2.0)), ICEM(max_iterations=10))
    u, state = mpc.step(mpc.init(x), x, parameters={"gain": gains})
    plant = DoubleIntegrator(dt=0.1).with_parameters(gain=gains)
    torch.testing.assert_close(state.solution.xs[:, 1], plant(x, u), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="no parameter 'mas'"):
        mpc.step(state, x, parameters={"mas": 1.0})


# The fallback


def test_the_plan_goes_on_when_the_model_fails():
    """The model is NaN from step 5 of the clock on, so that plans of 3 steps fail from step 3 on."""
    problem = Problem(BreaksAt(5), GoalCost([1.0, 0.0], 1.0, 0.01), 3, control_limits=(-1.0, 1.0))
    mpc, plant = MPC(problem, ICEM()), DoubleIntegrator(dt=0.1)
    x = tensor([0.0, 0.0], [2.0, 1.0])
    xs, us, state = run(mpc, plant, x, 3)
    plan = state.solution.us
    assert state.solution.usable.all()
    _, fallback, state = run(mpc, plant, xs[-1], 5, state)
    assert torch.equal(fallback, torch.stack([plan[:, 1], plan[:, 2], plan[:, 2], plan[:, 2], plan[:, 2]]))
    assert state.fallbacks.tolist() == [5, 5]
    assert (state.solution.status == Status.NO_FINITE_PLAN).all()
    assert state.solution.cost.isinf().all()
    assert us.isfinite().all()


@pytest.mark.parametrize(("limits", "expected"), [((-1.0, 1.0), 0.0), ((1.0, 2.0), 1.0), ((-3.0, -0.5), -0.5)])
def test_before_any_plan_the_fallback_is_zero_clamped(limits, expected):
    problem = Problem(BreaksAt(0), GoalCost(), 3, control_limits=limits)
    mpc, x = MPC(problem, ICEM()), tensor([0.0, 0.0], [2.0, 1.0])
    state = mpc.init(x)
    for k in range(3):
        u, state = mpc.step(state, x)
        assert (u == expected).all()
        assert state.fallbacks.tolist() == [k + 1, k + 1]


def test_a_bad_measurement_touches_its_own_loop_only():
    mpc, x = MPC(pendulum(), ICEM()), tensor([3.0, 0.0], [1.0, 0.0], [-2.0, 0.5])
    _, state = mpc.step(mpc.init(x), x)
    plan, (sound, _) = state.solution.us, mpc.step(state, x)
    for bad in (float("nan"), float("inf")):
        broken = x.clone()
        broken[1, 0] = bad
        u, after = mpc.step(state, broken)
        assert torch.equal(u[[0, 2]], sound[[0, 2]])
        assert torch.equal(u[1], plan[1, 1])
        assert after.fallbacks.tolist() == [0, 1, 0]
        again, recovered = mpc.step(after, x)
        assert recovered.solution.usable.all()
        assert recovered.fallbacks.tolist() == [0, 1, 0]
        assert again.isfinite().all()


def test_the_fallback_uses_the_gains_of_the_plan_that_goes_on():
    """The cost is not convex from step 3 on, so that plans of two steps fail from step 2 on."""
    R = tensor(0.1, 0.1, 0.1, -9.0).reshape(4, 1, 1)
    mpc = MPC(Problem(LinearDynamics(A, B), QuadraticCost(EYE2, R, Q_terminal=EYE2), 2), LQR())
    x = tensor([1.0, 0.0], [-1.0, 2.0])
    state = mpc.init(x)
    for _ in range(2):
        _, state = mpc.step(state, x)
    plan = state.solution
    assert plan.usable.all()

    def feedback(x, expected_state):
        return plan.us[:, 1] + ((x - expected_state) @ plan.K[0, 1].T)

    u, state = mpc.step(state, x + 0.5)
    assert (state.solution.status == Status.NOT_CONVEX).all()
    torch.testing.assert_close(u, feedback(x + 0.5, plan.xs[:, 1]), rtol=0, atol=1e-12)
    u, state = mpc.step(state, x - 0.5)  # the gains of a plan that has gone on for two steps
    torch.testing.assert_close(u, feedback(x - 0.5, plan.xs[:, 2]), rtol=0, atol=1e-12)
    assert state.fallbacks.tolist() == [2, 2]
    u, state = mpc.step(state, torch.full_like(x, float("nan")))  # no state to feed back
    torch.testing.assert_close(u, plan.us[:, 1], rtol=0, atol=0)


def test_a_gain_for_all_times_goes_on_as_it_is():
    """With an infinite horizon u = K x is optimal at every step; models without control leave no usable plan."""
    mpc, x = MPC(regulator(math.inf), LQR()), tensor(1.0, 0.0)
    u, state = mpc.step(mpc.init(x), x)
    K = state.solution.K
    for k in range(3):
        x = LinearDynamics(A, B)(x, u)
        u, state = mpc.step(state, x, parameters={"A": 2.0 * A, "B": 0.0 * B})
        assert state.fallbacks == k + 1
        torch.testing.assert_close(u, K @ x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), 7.0])
def test_no_planner_gets_a_bad_control_past_it(value):
    """A planner that calls its plan usable, whatever it is; the gains of a plan may lead beyond the limits, too."""

    @dataclass(frozen=True)
    class Careless(LQR):
        supports = LQR.supports | {"control_limits"}

        def plan(self, problem, x0, request):
            solution = super().plan(problem, x0, request)
            gains = torch.full_like(solution.K, 100.0)
            failed = torch.full_like(solution.status, int(Status.NO_FINITE_PLAN))
            status = solution.status if request.t0 == 0 else failed
            return replace(solution, us=torch.full_like(solution.us, value), K=gains, status=status)

    mpc, x = MPC(replace(regulator(), control_limits=(-1.0, 1.0)), Careless()), tensor(1.0, 0.0)
    u, state = mpc.step(mpc.init(x), x)
    assert float(u) == (0.0 if math.isnan(value) else 1.0)
    u, state = mpc.step(state, x - 5.0)
    assert state.fallbacks == 1
    assert -1.0 <= float(u) <= 1.0


# The budget


def test_the_budget_ends_a_solve_early():
    """The clock is read at the start, after each iteration and at the end, 0.3 s apart: two iterations and the end fit in 1 s."""
    mpc, x = MPC(pendulum(), ICEM(max_iterations=9), budget=1.0, clock=Clock(0.3)), tensor(3.0, 0.0)
    u, state = mpc.step(mpc.init(x), x)
    assert state.solution.stats["iterations"] == 2
    assert int(state.solution.status) == Status.TIME_LIMIT
    assert state.overruns == 0
    assert u.isfinite().all()
    assert state.fallbacks == 0
    _, state = mpc.step(state, x)
    assert state.overruns == 0


def test_a_budget_too_short_for_one_iteration_is_overrun():
    mpc, x = MPC(pendulum(), ICEM(), budget=0.1, clock=Clock(0.3)), tensor(3.0, 0.0)
    u, state = mpc.step(mpc.init(x), x)
    assert state.solution.stats["iterations"] == 1
    assert state.overruns == 1
    assert u.isfinite().all()
    _, state = mpc.step(state, x)
    assert state.overruns == 2


def test_a_budget_that_is_kept():
    mpc, x = MPC(pendulum(), ICEM(), budget=10.0, clock=Clock(0.3)), tensor(3.0, 0.0)
    u, state = mpc.step(mpc.init(x), x)
    assert state.solution.stats["iterations"] == 5
    assert int(state.solution.status) == Status.ITERATION_LIMIT
    assert state.overruns == 0
    unbounded, _ = MPC(pendulum(), ICEM()).step(mpc.init(x), x)
    assert torch.equal(u, unbounded)


# Wrong use


def test_state_and_measurement_in_the_wrong_order():
    mpc, x = MPC(pendulum(), ICEM()), tensor(3.0, 0.0)
    with pytest.raises(TypeError, match=r"state must come from init or the step before, got Tensor: step\(state, x\)"):
        mpc.step(x, mpc.init(x))


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_the_budget_is_positive(budget):
    with pytest.raises(ValueError, match="budget must be a positive number of seconds"):
        MPC(pendulum(), ICEM(), budget=budget)


def test_a_planner_that_cannot_solve_the_problem_is_refused_at_once():
    with pytest.raises(ValueError, match=r"LQR cannot honor: control_limits; use CEM or .*ICEM or MPPI or"):
        MPC(pendulum(), LQR())
    with pytest.raises(ValueError, match="ICEM needs finite control_limits"):
        MPC(replace(pendulum(), control_limits=None), ICEM())
    with pytest.raises(ValueError, match="infinite horizon"):
        MPC(pendulum(math.inf), ICEM())


def test_states_of_the_wrong_shape():
    mpc, x = MPC(pendulum(), ICEM()), tensor([3.0, 0.0], [1.0, 0.0])
    _, state = mpc.step(mpc.init(x), x)
    with pytest.raises(ValueError, match=r"x0 must be a floating-point tensor of shape \(\*batch, 2\), got \(3,\)"):
        mpc.step(state, tensor(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"previous_control must broadcast to \(\*batch, m\) = \(3, 1\), got \(2, 1\)"):
        mpc.step(state, x[0].expand(3, 2))
