"""Acting on estimates: linear-quadratic-Gaussian control against its closed form, and swing-ups from noisy measurements."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

from dynamics import ExtendedKalmanFilter, GaussianBelief, LinearDynamics, Pendulum, UnscentedKalmanFilter
from mbrl import EstimatedStateActor, EstimatedStateMemory, UniformNoise, pendulum_swing_up, record
from planners import ICEM, LQR, MPC, Problem, QuadraticCost, solve


class LQG:
    """A double integrator with a drag, measured in one combination of its states, and the optimal controller of it."""

    A = np.array([[1.0, 0.1], [0.02, 0.95]])
    B = np.array([[0.0], [0.1]])
    C = np.array([[1.0, 0.2]])
    W, V = np.diag([0.001, 0.02]), np.array([[0.05]])  # of process and measurement
    Q, R = np.diag([1.0, 0.1]), np.array([[0.2]])

    def __init__(self):
        A, B, C, W, V, Q, R = (torch.from_numpy(getattr(self, name)) for name in ("A", "B", "C", "W", "V", "Q", "R"))
        self.dynamics = LinearDynamics(A, B)
        self.problem = Problem(self.dynamics, QuadraticCost(Q, R), math.inf)  # half of x'Qx + u'Ru
        self.kalman = ExtendedKalmanFilter(self.dynamics, W, V, observation=lambda x: x @ C.mT)
        self.P = solve_discrete_are(self.A, self.B, self.Q, self.R)
        self.S = solve_discrete_are(self.A.T, self.C.T, self.W, self.V)  # of the prediction
        belief = self.kalman.init(torch.zeros(2, dtype=torch.float64), torch.from_numpy(0.5 * (self.S + self.S.T)))
        self.controller = solve(self.problem, LQR(), torch.zeros(2, dtype=torch.float64)).controller(temperature=0.0)
        self.actor = EstimatedStateActor(self.controller, self.kalman, belief)

    def cost(self):
        """Average of x'Qx + u'Ru: tr(PW) for the noise, and for not knowing the state what its error costs in control."""
        S, C, P, B = self.S, self.C, self.P, self.B
        filtered = S - S @ C.T @ np.linalg.inv(C @ S @ C.T + self.V) @ C @ S
        weight = self.R + B.T @ P @ B
        K = np.linalg.solve(weight, B.T @ P @ self.A)
        return np.trace(P @ self.W) + np.trace(K.T @ weight @ K @ filtered)


def test_the_average_cost_is_that_of_the_separation_principle():
    """One step of plant and actor as a matrix on (x, predicted mean), its stationary covariance, its cost; exact."""
    s = LQG()
    C = torch.from_numpy(s.C)

    def loop(z):
        """(x, predicted mean, v) to (next x without noise, next predicted mean, u)."""
        x, mean, v = z.split([2, 2, 1], dim=-1)
        belief = GaussianBelief(mean, s.actor.belief.covariance.expand(len(z), 2, 2))
        memory = EstimatedStateMemory(belief, None, s.controller.init())
        u, memory = s.actor.act(x @ C.mT + v, memory)
        return torch.cat([s.dynamics(x, u), s.kalman.predict(memory.belief, u).mean, u], dim=-1)

    M = loop(torch.eye(5, dtype=torch.float64)).mT.numpy()  # linear: the images of the basis
    step, of_v, u_row = M[:4, :4], M[:4, 4:], M[4:]
    noise = of_v @ s.V @ of_v.T
    noise[:2, :2] += s.W
    Z = solve_discrete_lyapunov(step, noise)
    average = np.trace(s.Q @ Z[:2, :2]) + np.trace(
        s.R @ (u_row[:, :4] @ Z @ u_row[:, :4].T + u_row[:, 4:] @ s.V @ u_row[:, 4:].T)
    )
    assert average == pytest.approx(s.cost(), rel=1e-9)


@pytest.mark.parametrize("closed", ["controller", "MPC"])
def test_a_long_simulation_costs_what_the_closed_form_says(closed, generator):
    s = LQG()
    actor = s.actor
    if closed == "MPC":
        actor = EstimatedStateActor(MPC(s.problem, LQR()), s.kalman, s.actor.belief)
    worlds, steps, settling = (4000, 160, 80) if closed == "controller" else (1500, 80, 60)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w, C = torch.from_numpy(np.sqrt(s.W)), torch.from_numpy(s.C)
    x, memory, costs = torch.zeros(worlds, 2, dtype=torch.float64), actor.init(worlds, generator=generator), []
    for k in range(steps):
        u, memory = actor.act(x @ C.mT + math.sqrt(s.V[0, 0]) * randn(worlds, 1), memory)
        if k >= settling:
            costs.append(2.0 * s.problem.cost.stage(x, u, k))
        x = s.dynamics(x, u) + randn(worlds, 2) @ w
    per_world = torch.stack(costs).mean(0)  # worlds are independent, steps of one are not
    error = float(per_world.std()) / math.sqrt(worlds)
    assert abs(float(per_world.mean()) - s.cost()) < 3 * error
    assert error < 0.03 * s.cost()


def partly_seen(kind=ExtendedKalmanFilter, torque_limit=2.0, **options):
    """The swing-up, its angle measured alone."""
    task = pendulum_swing_up("torch", torque_limit=torque_limit)
    Q, R = torch.diag(torch.tensor([1e-8, 1e-4], dtype=torch.float64)), torch.full((1, 1), 0.01, dtype=torch.float64)
    kalman = kind(Pendulum(), Q, R, observation=lambda x: x[..., :1], observation_angles=[0])
    hanging = torch.tensor([math.pi, 0.0], dtype=torch.float64)
    return task, kalman, kalman.init(hanging, 0.05 * torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("kind", [ExtendedKalmanFilter, UnscentedKalmanFilter])
def test_planning_from_an_estimate(kind, generator):
    """A second of the swing-up: what the filter believes is as far from the truth as it says, whatever MPC does."""
    task, kalman, belief = partly_seen(kind)
    actor = EstimatedStateActor(MPC(task.problem(horizon=15), ICEM(num_samples=20, max_iterations=1)), kalman, belief)
    worlds = 40
    x = task.initial_state(worlds, generator)
    x = belief.mean + belief.std * torch.randn(worlds, 2, generator=generator, dtype=torch.float64)
    memory = actor.init(worlds, generator=generator)
    for _ in range(20):
        y = x[:, :1] + 0.1 * torch.randn(worlds, 1, generator=generator, dtype=torch.float64)
        u, memory = actor.act(y, memory)
        truth = x
        noise = torch.tensor([1e-4, 1e-2], dtype=torch.float64) * torch.randn(worlds, 2, generator=generator).double()
        x = task.dynamics(x, u) + noise
    assert float(kalman.nees(memory.belief, truth).mean()) == pytest.approx(2.0, abs=4 * math.sqrt(2 * 2 / worlds))
    assert memory.belief.step == 19
    assert memory.actor.time == 20


def test_it_is_recorded_like_any_actor(generator):
    """The task's own observation (cosine, sine, velocity) is what the filter is told that the sensor sees."""
    task, kalman, belief = partly_seen()
    R = 1e-4 * torch.eye(3, dtype=torch.float64)
    kalman = ExtendedKalmanFilter(kalman.dynamics, kalman.process_noise, R, observation=task.observe)
    actor = EstimatedStateActor(MPC(task.problem(horizon=5), ICEM(num_samples=10, max_iterations=1)), kalman, belief)
    first, second = (record(task, actor, 2, steps=5)[0] for _ in range(2))
    np.testing.assert_array_equal(first.controls, second.controls)
    assert np.isfinite(first.controls).all()


def test_the_filter_knows_the_control_that_was_applied():
    s = LQG()
    limited = EstimatedStateActor(s.controller, s.kalman, s.actor.belief, control_limits=(-0.05, 0.05))
    y = torch.ones(3, 1, dtype=torch.float64)
    u, memory = limited.act(y, limited.init(3))
    assert torch.equal(u, torch.full((3, 1), -0.05, dtype=torch.float64))
    _, after = limited.act(y, memory)
    expected = s.kalman.step(s.kalman.update(s.actor.belief, y[0]), u[0], y[0])
    torch.testing.assert_close(after.belief.mean[0], expected.mean)
    free, _ = s.actor.act(y, s.actor.init(3))
    assert float(free[0]) < -0.05


def test_a_missing_measurement_is_bridged_by_the_model():
    s = LQG()
    y = torch.ones(2, 1, dtype=torch.float64)
    u, memory = s.actor.act(y, s.actor.init(2))
    _, blind = s.actor.act(torch.tensor([[1.0], [math.nan]], dtype=torch.float64), memory)
    predicted = s.kalman.predict(memory.belief, u)
    torch.testing.assert_close(blind.belief.mean[1], predicted.mean[1])
    assert not torch.allclose(blind.belief.mean[0], predicted.mean[0])


def test_a_belief_for_each_episode():
    s = LQG()
    each = s.kalman.init(torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    actor = EstimatedStateActor(s.controller, s.kalman, each)
    assert torch.equal(actor.init(2).belief.mean, each.mean)
    with pytest.raises(ValueError, match="belief is about 2 episodes, got batch=3"):
        actor.init(3)


def test_actors_that_cannot_be():
    s = LQG()
    with pytest.raises(TypeError, match="UniformNoise acts on the observation and needs no estimate"):
        EstimatedStateActor(UniformNoise((-1.0, 1.0)), s.kalman, s.actor.belief)
    with pytest.raises(TypeError, match="an actor has acts_on"):
        EstimatedStateActor(LQR(), s.kalman, s.actor.belief)
    with pytest.raises(TypeError, match="estimator must be a Gaussian filter"):
        EstimatedStateActor(s.controller, s.dynamics, s.actor.belief)
    with pytest.raises(TypeError, match="belief must be a GaussianBelief"):
        EstimatedStateActor(s.controller, s.kalman, torch.zeros(2))
    with pytest.raises(ValueError, match=r"belief must be about states \(2,\) or \(batch, 2\)"):
        EstimatedStateActor(s.controller, s.kalman, GaussianBelief(torch.zeros(3), torch.eye(3)))
    with pytest.raises(ValueError, match="control_limits must be finite"):
        EstimatedStateActor(s.controller, s.kalman, s.actor.belief, control_limits=(1.0, -1.0))
