"""Policies: every head on every kind of body, as actors on tasks."""

import copy
import math
from dataclasses import replace

import pytest
import torch

import mbrl
from mbrl import NetworkSettings, Policy, discretized, pendulum_swing_up, point_navigation
from mbrl.policies import ContinuousActions, DiscreteActions

HEADS = ("gaussian", "squashed-gaussian", "beta", "mixture", "categorical")
LIMITED = ContinuousActions(torch.tensor([-1.0, 2.0]).double(), torch.tensor([3.0, 2.5]).double())
UNLIMITED = ContinuousActions(torch.full((2,), -torch.inf), torch.full((2,), torch.inf))
LISTED = DiscreteActions(torch.tensor([[0.0, 1.0], [2.0, -3.0], [4.0, 5.0]]).double())


def make(head, *, recurrent=0, dtype="float64", actions=None, seed=0, hidden=(8,), **options):
    """A policy on four columns whose outputs depend on what it sees, with statistics."""
    actions = actions or (LISTED if head == "categorical" else LIMITED)
    settings = NetworkSettings(head, hidden=hidden, recurrent=recurrent, dtype=dtype, **options)
    policy = Policy(4, actions, settings, seed=seed)
    with torch.no_grad():
        policy.head.layer.weight.mul_(100.0)
    if policy.normalizer is not None:
        policy.normalizer.update(observations(200, seed=7))
    return policy


def observations(batch, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 5 + 3 * torch.randn(batch, 4, generator=generator, dtype=torch.float64).to(dtype)


every_policy = pytest.mark.parametrize(
    ("head", "recurrent", "dtype"),
    [(head, recurrent, dtype) for head in HEADS for recurrent in (0, 6) for dtype in ("float32", "float64")],
)


@every_policy
def test_acts_on_any_batch_in_any_dtype(head, recurrent, dtype):
    policy = make(head, recurrent=recurrent, dtype=dtype)
    lower, upper = policy.actions.bounds()
    for batch in (0, 1, 5):
        for seen in (torch.float32, torch.float64):
            y, memory = observations(batch, dtype=seen), policy.init(batch)
            for deterministic in (True, False):
                u, following = policy.act(y, memory, deterministic=deterministic)
                assert (u.shape, u.dtype, u.requires_grad) == ((batch, 2), seen, False)
                assert bool(((u >= lower.to(u)) & (u <= upper.to(u))).all())
                assert following.hidden.shape == (batch, recurrent)


@every_policy
def test_a_batch_is_its_elements(head, recurrent, dtype):
    policy = make(head, recurrent=recurrent, dtype=dtype)
    y, tolerance = observations(5), 1e-5 if dtype == "float32" else 1e-12
    first, memory = policy.act(y, policy.init(5))
    second, _ = policy.act(y.flip(0), memory)
    for i in range(5):
        u, alone = policy.act(y[i : i + 1], policy.init(1))
        torch.testing.assert_close(u[0], first[i], rtol=0, atol=tolerance)
        u, _ = policy.act(y[4 - i : 5 - i], alone)
        torch.testing.assert_close(u[0], second[i], rtol=0, atol=tolerance)


@every_policy
def test_deterministic_is_the_mode_and_a_draw_is_of_the_distribution(head, recurrent, dtype):
    policy = make(head, recurrent=recurrent, dtype=dtype)
    y, memory = observations(4), policy.init(4, generator=torch.Generator().manual_seed(3))
    distribution = policy.distribution(y)
    u, _ = policy.act(y, memory)
    assert torch.equal(u, policy.controls(distribution.mode(), y))
    u, _ = policy.act(y, memory, deterministic=False)
    actions = distribution.sample(torch.Generator().manual_seed(3))
    assert torch.equal(u, policy.controls(actions, y))


@every_policy
def test_a_memory_is_a_value(head, recurrent, dtype):
    policy, y = make(head, recurrent=recurrent, dtype=dtype), observations(3)
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    memory = policy.init(3, generator=generator)
    assert torch.equal(generator.get_state(), before)
    for _ in range(3):
        u, following = policy.act(y, memory, deterministic=False)
        again, following_again = policy.act(y, memory, deterministic=False)
        assert torch.equal(u, again)
        assert torch.equal(following.hidden, following_again.hidden)
        assert torch.equal(following.generator.get_state(), following_again.generator.get_state())
        memory = following
    assert not torch.equal(memory.generator.get_state(), before)
    other = policy.init(3, generator=torch.Generator().manual_seed(6))
    start = policy.init(3, generator=generator)
    if head != "categorical":
        assert not torch.equal(
            policy.act(y, other, deterministic=False)[0], policy.act(y, start, deterministic=False)[0]
        )


@pytest.mark.parametrize("head", HEADS)
def test_a_sequence_with_starts_is_step_by_step_with_resets(head):
    policy = make(head, recurrent=6)
    T, N = 25, 4
    generator = torch.Generator().manual_seed(1)
    y = observations(T * N).reshape(T, N, 4)
    starts = torch.rand(T, N, generator=generator) < 0.3
    hidden = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    distributions, hiddens = policy.sequence(policy.inputs(y), hidden, starts)
    h = hidden
    for t in range(T):
        h = torch.where(starts[t].unsqueeze(-1), policy.initial_hidden(N), h)
        memory = replace(policy.init(N), hidden=h)
        u, memory = policy.act(y[t], memory)
        h = memory.hidden
        torch.testing.assert_close(u, policy.controls(distributions[t].mode(), y[t]), rtol=0, atol=1e-12)
        torch.testing.assert_close(h, hiddens[t], rtol=0, atol=1e-12)


def test_what_a_recurrent_policy_saw_matters():
    policy, y = make("gaussian", recurrent=6, actions=UNLIMITED), observations(1)
    fresh, _ = policy.act(y, policy.init(1))
    _, memory = policy.act(observations(1, seed=9), policy.init(1))
    assert not torch.allclose(policy.act(y, memory)[0], fresh)
    torch.testing.assert_close(
        policy.controls(policy.distribution(y, memory.hidden).mode(), y), policy.act(y, memory)[0]
    )


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3)])
@pytest.mark.parametrize("recurrent", [0, 6])
def test_distributions_of_any_batch(shape, recurrent):
    policy = make("gaussian", recurrent=recurrent)
    y = observations(math.prod(shape)).reshape(*shape, 4)
    assert policy.distribution(y).mean.shape == (*shape, 2)


def test_inputs_are_normalized_before_they_are_rounded():
    policy = make("gaussian", dtype="float32")
    policy.normalizer = type(policy.normalizer)(4)
    y = observations(100) + 5e5
    policy.normalizer.update(y)
    z = policy.inputs(y)
    assert z.dtype == torch.float32
    expected = (y - y.mean(0)) / y.std(0, correction=0)
    torch.testing.assert_close(z, expected.float(), rtol=1e-5, atol=1e-5)  # rounded first, they would be off by 1e-2
    plain = make("gaussian", normalize=False, dtype="float32")
    assert plain.normalizer is None
    assert torch.equal(plain.inputs(y), y.float())


@pytest.mark.parametrize("recurrent", [0, 6])
def test_without_layers(recurrent):
    policy = make("gaussian", recurrent=recurrent, hidden=(), actions=UNLIMITED)
    y = observations(3)
    u, _ = policy.act(y, policy.init(3))
    if not recurrent:
        layer = policy.head.layer
        torch.testing.assert_close(u, policy.inputs(y) @ layer.weight.T + layer.bias, rtol=0, atol=1e-12)
    assert u.shape == (3, 2)


def test_controls_are_scaled_and_clamped():
    policy = make("gaussian")
    with torch.no_grad():
        policy.head.layer.weight.zero_()
        for bias, expected in (([0.0, 0.5], [1.0, 2.375]), ([-9.0, 9.0], [-1.0, 2.5])):
            policy.head.layer.bias.copy_(torch.tensor(bias))
            u, _ = policy.act(observations(1), policy.init(1))
            assert u.tolist() == [expected]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_controls_of_single_precision_keep_limits_of_double(sign):
    """In single precision 0.1 is more than 0.1."""
    actions = ContinuousActions(*(torch.tensor([limit], dtype=torch.float64) for limit in (-0.1, 0.1)))
    policy = make("gaussian", dtype="float32", actions=actions)
    with torch.no_grad():
        policy.head.layer.bias.fill_(sign * 1e6)
    y = observations(1)
    assert policy.act(y, policy.init(1))[0].tolist() == [[sign * 0.1]]
    expected = torch.tensor([[sign * 0.1]], dtype=torch.float32)
    assert torch.equal(policy.act(y.float(), policy.init(1))[0], expected)


def test_a_mixture_begins_with_the_standard_deviation_of_the_settings():
    distribution = make("mixture", initial_std=0.25, components=3).distribution(observations(2))
    assert distribution.log_stds.shape == (2, 3, 2)
    policy = Policy(4, LIMITED, NetworkSettings("mixture", initial_std=0.25))
    torch.testing.assert_close(policy.distribution(torch.zeros(4)).log_stds.exp(), torch.full((5, 2), 0.25))


def test_seeds():
    before = torch.get_rng_state()
    first, second, other = (make("gaussian", recurrent=3, seed=seed) for seed in (4, 4, 5))
    make("gaussian").act(observations(2), make("gaussian").init(2), deterministic=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    torch.rand(1)  # whatever the global numbers are
    third = make("gaussian", recurrent=3, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


def test_another_dtype_afterwards():
    policy = make("gaussian", dtype="float32", recurrent=3)
    y = observations(2)
    expected, _ = policy.act(y, policy.init(2))
    policy.double()
    assert policy.dtype == torch.float64
    assert policy.normalizer.mean.dtype == torch.float64
    assert policy.config()["settings"]["dtype"] == "float64"
    torch.testing.assert_close(policy.act(y, policy.init(2))[0], expected, rtol=0, atol=1e-5)


def task_of(head):
    task = pendulum_swing_up("torch")
    return discretized(task, 3) if head == "categorical" else task


@every_policy
def test_on_a_task(head, recurrent, dtype):
    task = task_of(head)
    policy = Policy.for_task(task, NetworkSettings(head, hidden=(8,), recurrent=recurrent, dtype=dtype))
    trajectories = mbrl.record(task, policy, 2, steps=4, deterministic=False)
    assert [t.controls.shape for t in trajectories] == [(4, 1)] * 2
    assert mbrl.evaluate(policy, replace(task, episode_steps=4), episodes=2).returns.shape == (2,)
    with mbrl.make_env(replace(task, episode_steps=4)) as env:
        (trajectory,) = mbrl.record_env(env, policy, 1)
    assert trajectory.controls.shape == (4, 1)
    if task.control_values is not None:
        assert set(trajectory.controls.flatten().tolist()) <= set(task.control_values.flatten().tolist())


@pytest.mark.parametrize("recurrent", [0, 6])
@pytest.mark.parametrize("head", HEADS)
def test_in_a_control_loop(head, recurrent):
    now = [0.0]
    task = task_of(head)
    policy = Policy.for_task(task, NetworkSettings(head, hidden=(8,), recurrent=recurrent))
    plant = mbrl.SimulatedPlant(task, measures="observation", clock=lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    result = mbrl.run_control_loop(plant, policy, period=task.dynamics.dt, steps=5, clock=lambda: now[0], sleep=sleep)
    y, memory = torch.from_numpy(result.trajectory.observations.copy()), policy.init(1)
    for t in range(5):
        u, memory = policy.act(y[t : t + 1], memory)
        assert u[0].tolist() == pytest.approx(result.trajectory.controls[t].tolist(), abs=1e-12)


def test_for_a_task():
    task = point_navigation("torch")
    policy = Policy.for_task(task)
    assert policy.settings == NetworkSettings()
    assert isinstance(policy.actions, ContinuousActions)
    assert policy.observation_dim == len(task.names["observations"])
    assert policy.names["observations"] == task.names["observations"]
    assert policy.names["controls"] == task.names["controls"]
    policy.check_task(task)
    listed = Policy.for_task(discretized(task, 3))
    assert isinstance(listed.actions, DiscreteActions)
    assert listed.acts_on == "observation"


def test_on_a_task_that_it_does_not_fit():
    pendulum, plane = pendulum_swing_up("torch"), point_navigation("torch")
    policy = Policy.for_task(pendulum)
    with pytest.raises(
        ValueError, match=r"takes 2 controls, the policy sees 3 and gives 1; it was made for another task"
    ):
        mbrl.record(plane, policy, 1)
    weak = replace(pendulum, control_limits=(-0.5, 0.5))
    with pytest.raises(ValueError, match=r"takes controls from \[-0.5\] to \[0.5\], the policy chooses among"):
        mbrl.evaluate(policy, weak)
    Policy.for_task(weak).check_task(pendulum)  # less than there is
    listed = discretized(pendulum, 3)
    with pytest.raises(ValueError, match=r"takes the controls \[\[-2.0\], \[0.0\], \[2.0\]\] alone"):
        mbrl.record(listed, policy, 1)
    with pytest.raises(ValueError, match="alone"):
        Policy.for_task(discretized(pendulum, 5)).check_task(listed)
    Policy.for_task(listed).check_task(discretized(pendulum, 5))
    Policy.for_task(listed).check_task(pendulum)


def test_what_a_policy_may_give_has_to_be_among_the_actions():
    quarter = (LIMITED.upper - LIMITED.lower) / 4
    half = ContinuousActions(LIMITED.lower + quarter, LIMITED.upper - quarter)
    Policy(4, half).check_fits(4, LIMITED)
    Policy(4, LIMITED).check_fits(4, UNLIMITED)
    for actions, there in ((LIMITED, half), (UNLIMITED, LIMITED)):
        with pytest.raises(ValueError, match=r"plant takes controls from .*, the policy chooses among"):
            Policy(4, actions).check_fits(4, there, task="plant")
    with pytest.raises(ValueError, match="the task shows 3 columns"):
        Policy(4, LIMITED).check_fits(3, LIMITED)


def test_on_a_gymnasium_environment_that_it_does_not_fit():
    """Pendulum-v1 takes torques up to 2, and what is more would be clipped."""
    strong = ContinuousActions(torch.tensor([-3.0]), torch.tensor([3.0]))
    with pytest.raises(ValueError, match=r"Pendulum-v1 takes controls from \[-2.0\] to \[2.0\], the policy chooses"):
        mbrl.evaluate(Policy(3, strong), "Pendulum-v1", episodes=1)
    with pytest.raises(ValueError, match=r"CartPole-v1 takes the controls \[\[0.0\], \[1.0\]\] alone"):
        mbrl.evaluate(Policy(4, strong), "CartPole-v1", episodes=1)


def test_on_a_task_with_other_columns_of_the_same_number():
    task = pendulum_swing_up("torch")
    names = task.names["observations"]
    policy = Policy.for_task(task)
    with pytest.raises(ValueError, match="has names of observations"):
        policy.check_task(replace(task, observation_names=tuple(reversed(names))))
    with pytest.raises(ValueError, match="has units of controls"):
        policy.check_task(replace(task, control_units=("mN m",)))
    unnamed = Policy(3, policy.actions)
    unnamed.check_task(replace(task, control_units=("mN m",)))
    unnamed.describe(task)
    assert unnamed.names == policy.names


def test_what_was_trained_on_a_task_knows_its_columns(tmp_path):
    task = replace(pendulum_swing_up("torch"), episode_steps=8)
    algorithm = mbrl.PPO(num_envs=2, steps_per_iteration=16, network=NetworkSettings(hidden=(4,)))
    result = mbrl.train(algorithm, task, steps=16, evaluation_episodes=0, run=tmp_path / "run", progress=False)
    assert result.policy.names["controls"] == task.names["controls"]
    assert mbrl.load_policy(tmp_path / "run").names == result.policy.names


@pytest.mark.parametrize("columns", [3, 5, 0])
def test_other_observations_are_refused(columns):
    policy = make("gaussian")
    y = torch.zeros(2, columns)
    for call in (lambda: policy.act(y, policy.init(2)), lambda: policy.distribution(y)):
        with pytest.raises(ValueError, match=rf"the policy sees 4 columns, got observations \(2, {columns}\)"):
            call()


def test_a_memory_of_other_episodes_is_refused():
    policy = make("gaussian")
    with pytest.raises(ValueError, match=r"the memory is of 3 episodes, got observations \(2, 4\)"):
        policy.act(observations(2), policy.init(3))


@pytest.mark.parametrize(
    ("head", "actions", "sentence"),
    [
        ("categorical", LIMITED, "'categorical' needs finitely many"),
        ("gaussian", LISTED, "finitely many controls take the head 'categorical'"),
        ("beta", UNLIMITED, "keeps within limits, and these controls have none"),
        ("squashed-gaussian", UNLIMITED, "keeps within limits, and these controls have none"),
    ],
)
def test_heads_that_do_not_fit(head, actions, sentence):
    with pytest.raises(ValueError, match=sentence):
        Policy(4, actions, NetworkSettings(head))


@pytest.mark.parametrize(
    ("head", "option"),
    [
        *[("beta", option) for option in ("initial_std", "state_dependent_std", "components")],
        *[(None, option) for option in ("initial_std", "state_dependent_std", "components")],
        ("gaussian", "components"),
        ("squashed-gaussian", "components"),
        ("mixture", "state_dependent_std"),
    ],
)
def test_settings_that_a_head_would_ignore_are_refused(head, option):
    value = {"initial_std": 0.3, "state_dependent_std": True, "components": 3}[option]
    with pytest.raises(ValueError, match=f"the head '{head or 'categorical'}' does not use {option}; leave it out"):
        Policy(4, LISTED if head is None else LIMITED, NetworkSettings(head, **{option: value}))


def test_widths_in_a_list_are_those_in_a_tuple():
    assert NetworkSettings(hidden=[8, 4]) == NetworkSettings(hidden=(8, 4))
    assert Policy(4, LIMITED, NetworkSettings(hidden=[8])).settings.hidden == (8,)


@pytest.mark.parametrize(
    "options",
    [
        {"head": "normal"},
        {"activation": "gelu"},
        {"dtype": "float16"},
        {"hidden": (0,)},
        {"hidden": (8.0,)},
        {"recurrent": -1},
        {"recurrent": True},
        {"components": 0},
        {"initial_std": 0.0},
        {"initial_std": math.nan},
        {"initial_std": math.inf},
    ],
)
def test_settings_out_of_range(options):
    (value,) = options.values()
    with pytest.raises(ValueError, match=str(value if not isinstance(value, tuple) else value[0])):
        NetworkSettings(**options)


def test_copies_are_independent():
    policy = make("gaussian", recurrent=3)
    twin, y = copy.deepcopy(policy), observations(2)
    expected, _ = policy.act(y, policy.init(2))
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1.0)
    policy.normalizer.update(observations(50, seed=3) - 100)
    assert torch.equal(twin.act(y, twin.init(2))[0], expected)
