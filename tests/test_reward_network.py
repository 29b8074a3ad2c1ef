"""Rewards as networks: of what they are functions, shaping, files, and tasks and environments that pay them."""

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
import planners
from mbrl import PPO, DiscriminatorReward, RewardNetwork, ShapedReward
from mbrl.policies.action_space import ContinuousActions, DiscreteActions

LIMITS = ContinuousActions(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0]))
NUMBERED = DiscreteActions(torch.tensor([[3.0], [4.0], [5.0]]))
TERMINATED = torch.tensor([True, False, True, False, False])


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_weights(reward, seed=1):
    """A reward that is not zero everywhere, with statistics that are not those of nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in reward.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    if reward.encoding.normalizer is not None:
        reward.encoding.normalizer.update(3 + 2 * some(50, reward.observation_dim, seed=seed))
    return reward


def network(inputs="state-action-next", **options):
    return random_weights(RewardNetwork(3, LIMITS, **{"inputs": inputs, "hidden": (8,), "dtype": "float64", **options}))


def shaped(**options):
    return random_weights(ShapedReward(network("state", **options), discount=0.9, hidden=(6,)))


STEP = some(5, 3, seed=2), some(5, 2, seed=3).clamp(0, 1), some(5, 3, seed=4)


@pytest.mark.parametrize("inputs", ["state", "state-action", "state-next", "state-action-next"])
def test_a_reward_is_a_function_of_its_inputs_alone(inputs):
    reward = network(inputs)
    before = reward(*STEP)
    assert before.shape == (5,)
    for place, name in enumerate(("state", "action", "next")):
        changed = list(STEP)
        changed[place] = changed[place] + 0.1
        assert torch.equal(before, reward(*changed)) == (name not in inputs.split("-")), name
    assert reward.needs_next == ("next" in inputs)


@pytest.mark.parametrize("make", [network, shaped, lambda: DiscriminatorReward(network(), "positive")])
def test_batches_are_single_steps(make):
    reward = make()
    together = reward(*STEP, TERMINATED)
    one_by_one = [reward(*(part[i] for part in STEP), TERMINATED[i]) for i in range(5)]
    torch.testing.assert_close(together, torch.stack(one_by_one), rtol=1e-12, atol=1e-12)
    grid = reward(*(part[:4].reshape(2, 2, -1) for part in STEP), TERMINATED[:4].reshape(2, 2))
    torch.testing.assert_close(grid.flatten(), together[:4], rtol=1e-12, atol=1e-12)
    assert reward(*(part[:0] for part in STEP), TERMINATED[:0]).shape == (0,)


def test_at_first_it_is_zero_everywhere_but_can_learn():
    reward = RewardNetwork(3, LIMITS)
    assert torch.equal(reward(*STEP), torch.zeros(5, dtype=torch.float64))
    reward(*STEP).sum().backward()
    last = [p for p in reward.parameters() if p.ndim == 2][-1]
    assert bool((last.grad != 0).any())


def test_a_linear_reward_in_its_own_terms():
    reward = RewardNetwork(3, LIMITS, hidden=(), dtype="float64")
    reward.encoding.normalizer.update(some(100, 3, seed=5))
    y, u, _ = STEP
    weight = some(1, 5, seed=6)
    with torch.no_grad():
        reward.network[0].weight.copy_(weight)
    statistics = reward.encoding.normalizer
    z = (y - statistics.mean) / (statistics.variance + 1e-8).sqrt()
    a = torch.stack([u[:, 0] / 2, 2 * u[:, 1] - 1], -1)
    torch.testing.assert_close(reward(y, u), torch.cat([z, a], -1) @ weight[0], rtol=1e-12, atol=1e-12)


def test_finitely_many_controls_are_told_apart_one_by_one():
    reward = RewardNetwork(2, NUMBERED, hidden=(), normalize=False, dtype="float64")
    with torch.no_grad():
        reward.network[0].weight.copy_(torch.tensor([[0.0, 0.0, 7.0, -1.0, 2.0]]))
    assert reward(torch.zeros(3, 2).double(), torch.tensor([[4.0], [3.0], [5.0]]).double()).tolist() == [-1.0, 7.0, 2.0]


@pytest.mark.parametrize("absorbing", [False, True])
def test_shaping_adds_up_to_the_potentials_of_the_ends(absorbing):
    """Along a path the discounted sum of what shaping adds is gamma^T h(y_T) - h(y_0), and h is zero at a terminal end."""
    reward = shaped(absorbing=absorbing)
    path, steps = some(7, 3, seed=8), 6
    terminated = torch.tensor([False] * 5 + [True])
    decay = 0.9 ** torch.arange(steps, dtype=torch.float64)

    def h(y):
        rows = reward.encode(y, STEP[1][0].expand(len(y), -1), y)
        return reward.potential(rows[:, reward.encoding.blocks["state"]]).squeeze(-1)

    for over, end in ((None, 0.9**6 * h(path[-1:])), (terminated, 0.0)):
        added = reward(path[:-1], None, path[1:], over) - reward.base(path[:-1])
        torch.testing.assert_close((decay * added).sum(), (end - h(path[:1])).squeeze(), rtol=1e-10, atol=1e-10)


def test_the_absorbing_state_has_a_column_of_its_own_and_no_potential():
    reward = shaped(absorbing=True).requires_grad_(False)
    rows, blocks = reward.encode(*STEP, TERMINATED), reward.encoding.blocks
    assert torch.equal(rows[:, blocks["state"]][:, -1], torch.zeros(5).double())
    assert torch.equal(rows[TERMINATED][:, blocks["next"]], torch.tensor([[0.0, 0.0, 0.0, 1.0]]).double().expand(2, -1))
    assert torch.equal(rows[~TERMINATED][:, blocks["next"]][:, -1], torch.zeros(3).double())
    row = reward.encoding.absorbing_row()
    assert row.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1]
    h, h_next = reward.potentials(row)
    assert (float(h), float(h_next)) == (0.0, 0.0)
    assert torch.equal(reward.absorbing_reward(), reward.base.of_rows(row))
    with pytest.raises(ValueError, match="make it with absorbing=True"):
        shaped().absorbing_reward()


def test_the_forms_of_a_discriminator():
    logits = network()
    l = logits(*STEP)
    D = l.sigmoid()
    for form, expected in (
        ("signed", D.log() - (1 - D).log()),
        ("positive", -(1 - D).log()),
        ("negative", D.log()),
    ):
        torch.testing.assert_close(DiscriminatorReward(logits, form)(*STEP), expected, rtol=1e-9, atol=1e-9)


def test_a_spectral_norm_bounds_the_slope():
    reward = RewardNetwork(3, LIMITS, hidden=(16, 16), spectral_norm=True, normalize=False, dtype="float64")
    reward.train()
    for _ in range(50):  # the singular values are iterated
        reward(*STEP)
    reward.eval()
    rows = reward.encode(*(some(200, *part.shape[1:], seed=9) for part in STEP)).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.of_rows(rows).sum(), rows)
    assert 0 < float(gradient.norm(dim=-1).max()) <= 1 + 1e-6
    before = reward(*STEP)
    assert torch.equal(before, reward(*STEP))  # to ask changes nothing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: network(**options),
        lambda **options: network(spectral_norm=True, normalize=False, **options),
        lambda **options: shaped(absorbing=True, **options),
        lambda **options: DiscriminatorReward(shaped(**options), "negative"),
    ],
)
def test_files_hold_all_of_it(make, dtype, tmp_path):
    reward = make(dtype=dtype)
    path = mbrl.save_reward(reward, tmp_path / "deep" / "reward.safetensors")
    for loaded in (mbrl.load_reward(path), mbrl.load_reward(path.parent)):
        assert type(loaded) is type(reward)
        assert loaded.dtype == getattr(torch, dtype)
        assert torch.equal(loaded(*STEP, TERMINATED), reward(*STEP, TERMINATED))
    assert reward(*STEP).dtype == torch.float64
    assert reward(*(part.float() for part in STEP)).dtype == torch.float32


def test_files_of_other_things(tmp_path):
    with pytest.raises(FileNotFoundError, match="no reward at"):
        mbrl.load_reward(tmp_path)
    policy = mbrl.save_policy(mbrl.Policy(3, LIMITS), tmp_path / "policy.safetensors")
    with pytest.raises(ValueError, match="write rewards with mbrl"):
        mbrl.load_reward(policy)
    with pytest.raises(TypeError, match=r"save_reward takes one of FeatureReward, .*, got Linear"):
        mbrl.save_reward(torch.nn.Linear(2, 1), tmp_path / "reward.safetensors")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RewardNetwork(3, LIMITS, inputs="action"), "inputs must be one of state, state-action"),
        (lambda: RewardNetwork(3, LIMITS, dtype="half"), "dtype must be float32 or float64, got 'half'"),
        (lambda: RewardNetwork(3, LIMITS, activation="abs"), "activation must be one of"),
        (lambda: ShapedReward(network(), discount=1.5), "discount must be a number in"),
        (lambda: DiscriminatorReward(network(), "log"), "form must be one of signed, positive, negative, got 'log'"),
        (lambda: network()(STEP[0]), "this reward is one of state-action-next; pass controls"),
        (lambda: network()(STEP[0], STEP[1]), "pass next_observations"),
        (lambda: network()(STEP[1], STEP[1], STEP[2]), "of 3 columns of observations, got"),
        (lambda: network()(STEP[0], STEP[0], STEP[2]), "of 2 columns of controls, got"),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# In a task


def upright(task, inputs="state", **options):
    """The reward cos(angle) - 0.1 u^2, as far as it is one of these inputs, as a linear network on what a pendulum shows."""
    y = task.observe(task.initial_state(1, torch.Generator().manual_seed(0)))
    actions = ContinuousActions(*task.limits())
    reward = RewardNetwork(y.shape[-1], actions, inputs=inputs, hidden=(4,), dtype="float64", **options)
    return random_weights(reward)


@pytest.mark.parametrize("inputs", ["state", "state-action", "state-next"])
def test_a_task_is_paid_by_a_reward(inputs):
    task = mbrl.pendulum_swing_up("torch")
    reward = upright(task, inputs)
    learned = mbrl.reward_task(task, reward)
    (episode,) = mbrl.record(learned, mbrl.Policy.for_task(task), 1, steps=20)
    y, u = torch.from_numpy(episode.observations.copy()), torch.from_numpy(episode.controls.copy())
    expected = reward(y[:-1], u, y[1:]).detach().numpy()
    np.testing.assert_allclose(episode.rewards, expected, rtol=1e-10, atol=1e-10)
    assert learned.dynamics is task.dynamics
    assert learned.episode_steps == task.episode_steps


@pytest.mark.parametrize("inputs", ["state", "state-action", "state-next"])
@pytest.mark.parametrize("planner", [planners.DDP(max_iterations=5), planners.MPPI(num_samples=64, max_iterations=2)])
def test_planners_plan_with_a_reward(planner, inputs):
    task = mbrl.pendulum_swing_up("torch")
    problem = mbrl.reward_task(task, upright(task, inputs)).problem(horizon=10)
    x0 = task.initial_state(1, torch.Generator().manual_seed(0))[0]
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator} if isinstance(planner, planners.MPPI) else {}
    solution = planners.solve(problem, planner, x0, **options)
    xs, us = solution.xs, solution.us
    cost = problem.cost.transition(xs[:-1], us, xs[1:], torch.arange(10)).sum().detach()
    assert float(solution.cost) == pytest.approx(float(cost), rel=1e-9)
    still = task.dynamics.rollout(x0, torch.zeros_like(us))
    of_nothing = problem.cost.transition(still[:-1], torch.zeros_like(us), still[1:], torch.arange(10)).sum().detach()
    assert float(cost) < float(of_nothing)


def test_what_comes_after_termination_is_worth_what_the_absorbing_state_pays():
    task = mbrl.point_navigation("torch")
    ending = mbrl.Task(
        "Ending",
        task.dynamics,
        task.cost,
        task.control_limits,
        task.initial_state,
        horizon=5,
        episode_steps=5,
        observation=task.observation,
        termination=lambda x: x[..., 0] > 1,
        termination_cost=100.0,
    )
    y = ending.observe(ending.initial_state(1, torch.Generator().manual_seed(0)))
    actions = ContinuousActions(*ending.limits())
    plain, absorbing = (
        random_weights(RewardNetwork(y.shape[-1], actions, hidden=(4,), dtype="float64", absorbing=flag))
        for flag in (False, True)
    )
    assert mbrl.reward_task(ending, plain).termination_cost == 0
    learned = mbrl.reward_task(ending, absorbing, discount=0.9)
    assert learned.termination_cost == pytest.approx(-9 * float(absorbing.absorbing_reward().detach()))
    with pytest.raises(ValueError, match=r"pass discount=\.\.\., for instance the 0\.99 .* got 1\.0"):
        mbrl.reward_task(ending, absorbing)
    with pytest.raises(ValueError, match="the reward is of 3 observations and 2 controls, task Ending has"):
        mbrl.reward_task(ending, network())


def test_on_policy_training_runs_on_a_learned_task():
    task = mbrl.pendulum_swing_up("torch")
    learned = mbrl.reward_task(task, upright(task, "state-next"))
    algorithm = PPO(num_envs=2, steps_per_iteration=32, epochs=1)
    result = mbrl.train(algorithm, learned, steps=32, evaluation_episodes=0)
    assert np.isfinite(result.metrics["train/value_loss"]).all()


# In a gymnasium environment


@pytest.mark.parametrize(("env_id", "columns"), [("Pendulum-v1", 3), ("CartPole-v1", 4)])
def test_an_environment_is_paid_by_a_reward(env_id, columns):
    plain = gymnasium.make(env_id)
    actions = mbrl.envs.action_spaces.env_actions(plain)
    reward = random_weights(RewardNetwork(columns, actions, inputs="state-action-next", hidden=(4,), dtype="float64"))
    env = mbrl.reward_env(env_id, reward)()
    rng = np.random.default_rng(0)
    y, _ = env.reset(seed=1)
    plain.reset(seed=1)
    for _ in range(10):
        action = rng.integers(2) if env_id == "CartPole-v1" else 3 * rng.standard_normal(1).astype(np.float32)
        after, paid, terminated, _, info = env.step(action)
        same, true, *_ = plain.step(action)
        control = torch.as_tensor(np.atleast_1d(action)).double().clamp(-2, 2)
        rows = (torch.from_numpy(v.astype(np.float64)) for v in (y, after))
        y_before, y_after = rows
        expected = reward(y_before, control, y_after, torch.tensor(terminated))
        assert paid == pytest.approx(float(expected.detach()))
        np.testing.assert_array_equal(after, same)
        assert info["true_reward"] == true
        y = after


def test_the_end_of_an_episode_is_paid_for_all_that_comes_after_it():
    """A pole that falls: the last step alone has gamma / (1 - gamma) times the reward of the absorbing state on top."""
    actions = DiscreteActions(torch.tensor([[0.0], [1.0]]))
    reward = random_weights(RewardNetwork(4, actions, hidden=(4,), dtype="float64", absorbing=True))
    after = 9 * float(reward.absorbing_reward().detach())
    assert after != 0
    for discount, worth in ((0.9, after), (0.0, 0.0)):
        env = mbrl.reward_env("CartPole-v1", reward, discount=discount)()
        y, _ = env.reset(seed=0)
        terminated = False
        while not terminated:
            y_before = torch.from_numpy(y.astype(np.float64))
            y, paid, terminated, _, _ = env.step(1)
            step = reward(
                y_before, torch.ones(1).double(), torch.from_numpy(y.astype(np.float64)), torch.tensor(terminated)
            )
            assert paid == pytest.approx(float(step.detach()) + worth * terminated)
    env = mbrl.reward_env("CartPole-v1", reward, discount=0.9, max_episode_steps=2)()
    env.reset(seed=0)
    before = env.step(1)[0]
    last, paid, terminated, truncated, _ = env.step(1)
    rows = [torch.from_numpy(y.astype(np.float64)) for y in (before, last)]
    assert truncated
    assert not terminated
    assert paid == pytest.approx(float(reward(rows[0], torch.ones(1).double(), rows[1]).detach()))
    for discount in (None, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"pass discount=\.\.\., for instance the 0\.99 .* got {discount}"):
            mbrl.reward_env("CartPole-v1", reward, discount=discount)
    plain = random_weights(RewardNetwork(4, actions, hidden=(4,)))
    assert plain.worth_of_the_end(None) == 0.0


def test_what_a_reward_learns_after_an_environment_is_made_is_paid_in_the_end_too():
    actions = DiscreteActions(torch.tensor([[0.0], [1.0]]))
    reward = RewardNetwork(4, actions, inputs="state", hidden=(), dtype="float64", absorbing=True)
    env = mbrl.reward_env("CartPole-v1", reward, discount=0.9)()
    with torch.no_grad():
        reward.network[-1].bias.fill_(2.0)
    env.reset(seed=0)
    paid, terminated = [], False
    while not terminated:
        _, one, terminated, _, _ = env.step(1)
        paid.append(one)
    assert paid == pytest.approx([2.0] * (len(paid) - 1) + [20.0])  # 2 / (1 - 0.9)


def test_training_on_a_learned_environment():
    reward = random_weights(RewardNetwork(4, DiscreteActions(torch.tensor([[0.0], [1.0]])), hidden=(4,)))
    algorithm = PPO(num_envs=2, steps_per_iteration=32, epochs=1)
    result = mbrl.train(algorithm, mbrl.reward_env("CartPole-v1", reward), steps=32, evaluation_episodes=1)
    assert result.steps == 32
    with pytest.raises(ValueError, match=r"the reward is of observations \(4,\) and 1 controls"):
        mbrl.reward_env("Pendulum-v1", reward)()
    with pytest.raises(ValueError, match="gymnasium knows no environment 'Pendulum'"):
        mbrl.reward_env("Pendulum", reward)()
