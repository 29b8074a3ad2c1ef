"""Half-cheetah, hopper and swimmer against gymnasium's own environments, step by step from the same states."""

import copy
import math
import warnings
from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import mbrl
from dynamics import MujocoDynamics
from mbrl import half_cheetah, hopper, make_env, swimmer
from planners import DDP, ICEM, MPC, ColoredNoise, solve

RUNNERS = {"HalfCheetah-v5": half_cheetah, "Hopper-v5": hopper, "Swimmer-v5": swimmer}
every_runner = pytest.mark.parametrize(("name", "make"), RUNNERS.items(), ids=RUNNERS)


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """Makes gymnasium's environment, in a folder where MuJoCo may log that its file is old."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*settotalmass")
            return gymnasium.make(name).unwrapped

    return make


def play(env, steps, seed):
    """States ``(steps + 1, n)`` of gymnasium's environment under random actions, and the actions; falls go on."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(steps)]
    states = [env.state_vector()]
    for action in actions:
        env.step(action)
        states.append(env.state_vector())
    return np.stack(states), actions


def steps_of_both(ours, theirs, states, actions, *, cold):
    """One step of each environment from every state: pairs of (observation, reward, terminated, next state)."""
    for state, action in zip(states, actions, strict=False):
        ours.reset(options={"state": state})
        y, reward, terminated, _, info = ours.step(action)
        theirs.set_state(*np.split(state, [theirs.model.nq]))
        if cold:
            theirs.data.qacc_warmstart[:] = 0.0
        # gymnasium squares the actions in their own type, of which float32 leaves 1e-8 in the reward
        y_peer, reward_peer, terminated_peer, *_ = theirs.step(action.astype(np.float64))
        yield (y, reward, terminated, info["state"]), (y_peer, reward_peer, terminated_peer, theirs.state_vector())


@every_runner
def test_a_cold_step_is_gymnasiums(name, make, peer):
    """From the same state with the same (zero) warm start: the same numbers."""
    ours, theirs = make_env(make()), peer(name)
    states, actions = play(theirs, 200, seed=0)
    for mine, peers in steps_of_both(ours, theirs, states, actions, cold=True):
        np.testing.assert_allclose(mine[3], peers[3], rtol=0, atol=1e-12)
        np.testing.assert_allclose(mine[0], peers[0], rtol=0, atol=1e-12)
        assert mine[1] == pytest.approx(peers[1], rel=0, abs=1e-12)
        assert mine[2] == peers[2]
    theirs.close()


@every_runner
def test_a_step_of_gymnasium_differs_by_its_warm_start_alone(name, make, peer):
    """``set_state`` solves for the accelerations and leaves them as warm start of the solver, which Newton's method forgets."""
    ours, theirs = make_env(make()), peer(name)
    states, actions = play(theirs, 200, seed=1)
    pairs = list(steps_of_both(ours, theirs, states, actions, cold=False))
    rewards = np.array([[mine[1], peers[1]] for mine, peers in pairs])
    np.testing.assert_allclose(rewards[:, 0], rewards[:, 1], rtol=0, atol=1e-9)
    theirs.close()


def test_the_hopper_ends_where_gymnasiums_does(peer):
    """States on both sides of every bound of health."""
    task, theirs = hopper(), peer("Hopper-v5")
    rest = theirs.state_vector()
    changes = [
        (1, 0.71),
        (1, 0.69),
        (2, 0.19),
        (2, -0.19),
        (2, 0.21),
        (2, -0.21),
        (3, -99.0),
        (3, -101.0),
        (8, 101.0),
        (0, 1e3),
    ]
    states = np.tile(rest, (len(changes), 1))
    for state, (column, value) in zip(states, changes, strict=True):
        state[column] = value
    ended = task.termination(torch.from_numpy(states)).tolist()
    assert ended == [False, True, False, False, True, True, False, True, True, False]
    for state, end in zip(states, ended, strict=True):
        theirs.set_state(*np.split(state, [theirs.model.nq]))
        assert theirs.is_healthy == (not end)
    assert bool(task.termination(torch.full((12,), math.nan)))
    theirs.close()


def test_the_hopper_sees_clipped_velocities(peer):
    task, theirs = hopper(), peer("Hopper-v5")
    state = np.linspace(-15.0, 15.0, 12)
    theirs.set_state(*np.split(state, [6]))
    np.testing.assert_array_equal(task.observe(torch.from_numpy(state)).numpy(), theirs._get_obs())
    theirs.close()


@every_runner
def test_initial_states_are_spread_as_gymnasiums(name, make, peer, generator):
    """Mean and standard deviation of each column, within five standard errors, and the same ends."""
    theirs, count = peer(name), 2000
    ours = make().initial_state(count, generator).numpy()
    peers = []
    for seed in range(count):
        theirs.reset(seed=seed)
        peers.append(theirs.state_vector())
    peers, spread = np.array(peers), ours.std(0)
    assert (np.abs(ours.mean(0) - peers.mean(0)) < 5 * spread * math.sqrt(2 / count)).all()
    np.testing.assert_allclose(ours.std(0), peers.std(0), rtol=5 * math.sqrt(1 / count))
    nq = theirs.model.nq
    np.testing.assert_allclose(
        np.abs(ours - peers.mean(0))[:, :nq].max(0), np.abs(peers - peers.mean(0))[:, :nq].max(0), rtol=0.05
    )
    theirs.close()


@every_runner
def test_spaces_and_duration_are_gymnasiums(name, make, peer):
    ours, theirs = make_env(make()), peer(name)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.dt == pytest.approx(theirs.dt, rel=1e-12)
    assert ours.task.episode_steps == gymnasium.spec(name).max_episode_steps
    assert ours.task.names["observations"][0] == ("free_body_rot" if name == "Swimmer-v5" else "rootz")
    theirs.close()


def test_making_the_tasks_is_silent_and_leaves_no_log(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in RUNNERS.values():
            make()
    assert tuple(capfd.readouterr()) == ("", "")
    assert list(tmp_path.iterdir()) == []


@every_runner
def test_the_cost_is_one_of_transitions(name, make):
    task = make()
    x = task.initial_state(2, torch.Generator().manual_seed(0))
    with pytest.raises(TypeError, match="depends on the next state"):
        task.cost.stage(x, torch.zeros(2, task.dynamics.control_dim).double(), 0)


def test_what_going_on_is_worth_to_the_hopper():
    """All of it upright, high and slow; half of it where V is as large; less the farther from that, whatever the position."""
    terminal = hopper().cost.terminal
    x = torch.zeros(5, 12, dtype=torch.float64)
    x[:, 1] = 1.25
    x[1, [2, 8]] = torch.tensor([0.1, -1.0], dtype=torch.float64)  # leaning, but coming back
    x[2, [0, 6]] = torch.tensor([70.0, 1.5 + math.sqrt(10.0)], dtype=torch.float64)
    x[3, [1, 7]] = torch.tensor([0.7, 3.0], dtype=torch.float64)
    x[4, 2] = 0.2
    expected = [-1000.0, -1000.0, -500.0, -1e6 / (1000.0 + 2000.0 * 0.2**2), -1e6 / (1000.0 + 3000.0 * 0.2**2)]
    torch.testing.assert_close(terminal(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert not bool(half_cheetah().cost.terminal(torch.ones(2, 18).double()).any())


def test_a_fall_within_the_plan_forfeits_what_comes_after():
    """The planner's problem: reward up to the fall, and neither reward nor the worth of going on after it."""
    task = hopper()
    standing = task.initial_state(1, torch.Generator().manual_seed(0))[0]
    lying, us = torch.zeros(12, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    cost = task.problem().trajectory_cost
    to_the_fall = float(standing[0]) / task.dynamics.dt  # no reward for health where it ends
    assert float(cost(torch.stack([standing, lying, standing, standing]), us)) == pytest.approx(to_the_fall, rel=1e-12)
    upright = float(cost(standing.expand(4, 12), us))
    assert upright == pytest.approx(-3.0 + float(task.cost.terminal(standing)), rel=1e-12)


def test_a_speed_of_the_swimmers_own():
    """Half the squared difference of the mean speed over the step, and gymnasium's cost of controls."""
    x, x_next = torch.zeros(2, 2, 10, dtype=torch.float64)
    x_next[:, 0] = torch.tensor([0.02, -0.04], dtype=torch.float64)  # in 0.04 s
    u = torch.tensor([[0.0, 0.0], [1.0, -0.5]], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.5 * 1.5**2 + 1.25e-4], dtype=torch.float64)
    torch.testing.assert_close(swimmer(speed=0.5).cost.transition(x, u, x_next, 0), expected, rtol=0, atol=1e-14)
    assert swimmer(speed=0.5).observe(x).shape == (2, 8)


@pytest.mark.parametrize("speed", [math.nan, math.inf])
def test_a_speed_that_is_none(speed):
    with pytest.raises(ValueError, match=f"speed must be finite, or None for as fast as possible, got {speed}"):
        swimmer(speed=speed)


@pytest.mark.slow
def test_ddp_makes_the_swimmer_swim():
    """At a speed to keep, from no torques, which get nowhere; PPO and TRPO reach about 0.36 m/s after millions of steps."""
    task = swimmer(speed=0.5)
    x0 = task.initial_state(1, torch.Generator().manual_seed(0))[0]
    solution = solve(task.problem(), DDP(max_iterations=30, certify=False), x0)
    distance = solution.xs[..., 0] - x0[0]
    assert float(distance[100] - distance[50]) > 0.4 * 50 * task.dynamics.dt  # measured 0.48 m/s


@pytest.mark.slow
def test_planning_makes_the_half_cheetah_run():
    """Standing still returns zero, and random torques about -30."""
    task = replace(half_cheetah(), episode_steps=100)
    result = mbrl.evaluate(MPC(task.problem(), ICEM(noise=ColoredNoise(0.25))), task, episodes=2)
    assert result.returns.min() > 300.0


@pytest.mark.slow
def test_planning_on_a_quicker_model_makes_the_hopper_hop():
    """Random torques fall after about 20 steps, plans without the worth of going on after about 150."""
    task = replace(hopper(), episode_steps=300)
    model = copy.copy(task.dynamics.model)
    model.opt.timestep, model.opt.integrator = 0.004, mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    problem = task.problem(MujocoDynamics(model, frame_skip=2))
    planner = ICEM(num_samples=60, max_iterations=3, noise=ColoredNoise(3.0))
    result = mbrl.evaluate(MPC(problem, planner), task, episodes=3)
    assert np.median([len(trajectory) for trajectory in result.trajectories]) > 200
    assert np.median(result.returns) > 400.0
