"""GAIL and AIRL: the discriminator's optimum, ends of episodes, what the learner is paid, and that it learns."""

import contextlib
import importlib
import io
import json
import re
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import mbrl
from dynamics import Trajectory, write_trajectories
from mbrl import AIRL, GAIL, PPO, TRPO, Assignment, DiscriminatorSettings, NetworkSettings, RewardNetwork, ShapedReward
from mbrl.cli.main import main
from mbrl.irl.adversarial import episode_limit
from mbrl.irl.applied_actions import applied_log_prob
from mbrl.irl.discriminator import Discriminator, Rows
from mbrl.plots.style import new_figure
from mbrl.policies.action_space import ContinuousActions, DiscreteActions
from mbrl.policies.distributions import DiagonalGaussian, GaussianMixture
from mbrl.runs.records import json_values
from mbrl.runs.run import RunError, _check_state
from mbrl.training.processes import Processes
from planners import TabularMDP, solve_mdp

UNLIMITED = ContinuousActions(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))


def discriminator(model, **settings):
    settings = DiscriminatorSettings(**{"gradient_penalty": 0.0, "dtype": "float64", **settings})
    return Discriminator(settings, model, torch.Generator().manual_seed(0), Processes())


# The optimum


def numbered(counts):
    """Row numbers, each as often as a table says."""
    return torch.repeat_interleave(torch.arange(counts.numel()), counts.flatten())


def test_the_optimum_on_two_states_and_two_actions():
    """log p_E - log p_pi, from Goodfellow et al. 2014, proposition 1."""
    actions = DiscreteActions(torch.tensor([[0.0], [1.0]]))
    of_expert, of_learner = torch.tensor([[30, 10], [40, 20]]), torch.tensor([[10, 25], [25, 40]])
    model = RewardNetwork(2, actions, hidden=(16,), normalize=False, dtype="float64")
    states, chosen = torch.eye(2).double().repeat_interleave(2, 0), torch.tensor([[0.0], [1.0]] * 2).double()
    rows = model.encode(states, chosen)
    telling = discriminator(model, learning_rate=0.02)
    expert, learner = (Rows(rows[k := numbered(n)], torch.zeros(len(k)).double()) for n in (of_expert, of_learner))
    for _ in range(600):
        loss, entropy, *_ = telling.descend(expert, learner)
    p, q = of_expert / 100, of_learner / 100
    expected = p.log() - q.log()
    torch.testing.assert_close(model.of_rows(rows).detach().float(), expected.flatten(), rtol=1e-3, atol=1e-3)
    D = p / (p + q)
    least = -0.5 * (p * D.log() + q * (1 - D).log()).sum()
    assert float(loss) == pytest.approx(float(least), abs=1e-6)
    assert float(entropy) == pytest.approx(float(least), abs=1e-3)  # sum of (p + q) / 2 times the entropy of D


def test_the_optimum_between_two_normal_distributions():
    """Of N(1, 1) and N(-1, 1) it is 2 x, and of N(2, 1) and N(0, 1) 2 x - 2."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(4000) + 0.5).double() / 4000).unsqueeze(-1)
    for middle, constant in ((0.0, 0.0), (1.0, -2.0)):
        model = RewardNetwork(1, UNLIMITED, inputs="state", hidden=(), normalize=False, dtype="float64")
        telling = discriminator(model, learning_rate=0.05)
        expert, learner = (
            Rows(model.encode(quantiles + middle + shift), torch.zeros(4000).double()) for shift in (1, -1)
        )
        for _ in range(400):
            telling.descend(expert, learner)
        (weight, bias) = (float(p.detach().squeeze()) for p in model.network[0].parameters())
        assert (weight, bias) == (pytest.approx(2.0, abs=0.03), pytest.approx(constant, abs=0.05))


def test_label_smoothing_moves_the_optimum_as_it_should():
    """Where p = q it stays zero; where only the expert is, it ends at log((1 - s) / s)."""
    model = RewardNetwork(2, UNLIMITED, inputs="state", hidden=(), normalize=False, dtype="float64")
    telling = discriminator(model, learning_rate=0.05, label_smoothing=0.1)
    rows, zeros = model.encode(torch.eye(2).double()), torch.zeros(2).double()
    expert, learner = Rows(rows[[0, 0]], zeros), Rows(rows[[1, 1]], zeros)
    for _ in range(600):
        telling.descend(expert, learner)
    torch.testing.assert_close(
        model.of_rows(rows).detach(), torch.tensor([9.0, 1 / 9]).double().log(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0])
def test_the_optimum_with_a_penalty(weight):
    """All of the expert at 1 and of the learner at -1: log(1 + exp(-w)) + lambda w^2 is least where sigma(-w) = 2 lambda w."""
    model = RewardNetwork(1, UNLIMITED, inputs="state", hidden=(), normalize=False, dtype="float64")
    telling = discriminator(model, learning_rate=0.02, gradient_penalty=weight)
    rows, zeros = model.encode(torch.tensor([[1.0], [-1.0]]).double()), torch.zeros(2).double()
    for _ in range(1500):
        telling.descend(Rows(rows[[0, 0]], zeros), Rows(rows[[1, 1]], zeros))
    expected = brentq(lambda w: 1 / (1 + np.exp(w)) - 2 * weight * w, 0.0, 10.0)
    (found, bias) = (float(p.detach().squeeze()) for p in model.network[0].parameters())
    assert (found, bias) == (pytest.approx(expected, abs=1e-4), pytest.approx(0.0, abs=1e-4))


def test_a_penalty_makes_no_slope_where_there_is_nothing_to_tell_apart():
    """A learner that has become the expert is paid the same everywhere, whatever it was paid on the way there."""
    model = RewardNetwork(2, UNLIMITED, inputs="state", hidden=(8,), normalize=False, dtype="float64")
    telling = discriminator(model, learning_rate=0.02, gradient_penalty=0.1)
    rows = model.encode(torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    zeros = torch.zeros(500).double()
    behind, there = (Rows(rows + shift, zeros) for shift in (-1.0, 0.0))
    spread = []
    for learner in (behind, there):
        for _ in range(400):
            telling.descend(there, learner)
        spread.append(float(model.of_rows(rows).detach().std()))
    assert spread[0] > 0.5
    assert spread[1] < 0.01


@pytest.mark.parametrize(
    ("kind", "given", "penalty", "updates"),
    [
        (GAIL, {}, 0.1, 16),
        (AIRL, {}, 0.0, 64),
        (GAIL, {"gradient_penalty": 0.0, "updates": 3}, 0.0, 3),
        (GAIL, {"gradient_penalty": 0.3}, 0.3, 16),
        (AIRL, {"gradient_penalty": 0.3, "updates": 3}, 0.3, 3),
    ],
)
def test_the_defaults_go_by_what_the_optimum_is(kind, given, penalty, updates):
    """Flat where the logits are f, and as steep as log pi_E where they are f - log pi."""
    settings = DiscriminatorSettings(hidden=(8,), batch_size=16, **given)
    algorithm = replace(small(kind), discriminator=settings)
    telling = first(algorithm).discriminator
    assert (telling.penalty, telling.updates) == (penalty, updates)
    recorded = algorithm.config()["discriminator"]
    assert (recorded["gradient_penalty"], recorded["updates"]) == (penalty, updates)
    assert recorded == {**json_values("settings", settings), "gradient_penalty": penalty, "updates": updates}


def test_a_run_does_not_go_on_under_another_default(tmp_path, monkeypatch):
    algorithm = replace(small(), discriminator=DiscriminatorSettings(hidden=(8,), batch_size=16))

    def stop(row):
        raise KeyboardInterrupt

    run = {"steps": 128, "demonstrations": WALKS, "run": tmp_path, "evaluation_episodes": 0, "progress": False}
    with contextlib.suppress(KeyboardInterrupt):
        mbrl.train(algorithm, corridor, on_iteration=stop, **run)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["algorithm"]["discriminator"]["updates"] == 16
    monkeypatch.setattr(DiscriminatorSettings, "number_of_updates", lambda self, compares_policies: 4)
    with pytest.raises(RunError, match=r"discriminator\.updates was 16, now 4"):
        mbrl.train(algorithm, corridor, resume="must", **run)


@pytest.mark.parametrize("shaping", [False, True])
def test_the_optimal_f_is_the_soft_advantage(shaping):
    """Where the learner is the expert f* = log pi_E = Q - V of the soft values, whatever both visit how often."""
    transitions = torch.tensor([[1, 0], [0, 2], [2, 1]])  # deterministic: where action a leads in state s
    P = torch.nn.functional.one_hot(transitions, 3).double()
    mdp = TabularMDP(P, torch.tensor([0.3, -0.5, 0.8]).double(), discount=0.9)
    solution = solve_mdp(mdp, temperature=1.0)
    advantage = solution.action_values - solution.values[:, None]
    torch.testing.assert_close(solution.policy.log(), advantage, atol=1e-8, rtol=0)
    actions = DiscreteActions(torch.tensor([[0.0], [1.0]]))
    network = RewardNetwork(
        3,
        actions,
        inputs="state" if shaping else "state-action",
        hidden=() if shaping else (16,),
        normalize=False,
        dtype="float64",
    )
    model = ShapedReward(network, discount=0.9, hidden=()) if shaping else network
    states, chosen = torch.eye(3).double().repeat_interleave(2, 0), torch.tensor([[0.0], [1.0]] * 3).double()
    following = torch.eye(3).double()[transitions.flatten()]
    rows = model.encode(states, chosen, following)
    counts = (1000 * torch.tensor([[0.2], [0.5], [0.3]]) * solution.policy).round().long()
    batch = Rows(rows[k := numbered(counts)], solution.policy.log().flatten()[k])
    telling = discriminator(model, learning_rate=0.05)
    for _ in range(1500):
        telling.descend(batch, batch)
    torch.testing.assert_close(model.of_rows(rows).detach(), advantage.flatten(), atol=2e-3, rtol=0)
    if shaping:  # theorem 5.1: the reward itself, but for a constant, and the potential is the soft value
        found = network.of_rows(rows).detach()[::2]
        true = torch.as_tensor(mdp.rewards)
        torch.testing.assert_close(found - found.mean(), true - true.mean(), atol=1e-2, rtol=0)


# What is applied


def test_probabilities_of_applied_controls_add_up_to_one():
    policy = mbrl.Policy(1, ContinuousActions(torch.tensor([-2.0]), torch.tensor([3.0])))
    inside = torch.linspace(-1, 1, 20001).double()[1:-1, None]
    mean, log_std = torch.tensor([0.7]).double(), torch.tensor([-0.3]).double()
    gaussian = DiagonalGaussian(mean, log_std)
    mixture = GaussianMixture(
        torch.tensor([0.2, -0.4]).double(), torch.stack([mean, -mean]), torch.stack([log_std] * 2)
    )
    for distribution in (gaussian, mixture):
        many = type(distribution)(*(p.expand(len(inside), *p.shape) for p in distribution._parameters()))
        density = applied_log_prob(many, inside, policy).exp()
        ends = [float(applied_log_prob(distribution, torch.tensor([e]).double(), policy).exp()) for e in (-1.0, 1.0)]
        assert float(density.mean()) * 2 + sum(ends) == pytest.approx(1.0, abs=1e-4)
        torch.testing.assert_close(density, many.log_prob(inside).exp())
        beyond = applied_log_prob(distribution, torch.tensor([5.0]).double(), policy)
        assert float(beyond.exp()) == pytest.approx(ends[1])  # a draw beyond the limit is applied as the limit
    free, far = mbrl.Policy(1, UNLIMITED), torch.tensor([5.0]).double()
    assert torch.equal(applied_log_prob(gaussian, far, free), gaussian.log_prob(far))


def test_a_control_without_limits_beside_one_with_limits():
    """Each has the probability that it would have alone."""
    mixed = ContinuousActions(torch.tensor([-2.0, -torch.inf]), torch.tensor([3.0, torch.inf]))
    both, limited = mbrl.Policy(1, mixed), mbrl.Policy(1, ContinuousActions(mixed.lower[:1], mixed.upper[:1]))
    mean, log_std = torch.tensor([0.7, 0.2]).double(), torch.tensor([-0.3, 0.1]).double()
    first, second = (DiagonalGaussian(mean[i : i + 1], log_std[i : i + 1]) for i in range(2))
    for action in ([1.0, 1.0], [5.0, 7.0], [-1.0, -3.0], [0.2, 0.1]):
        a = torch.tensor(action).double()
        expected = applied_log_prob(first, a[:1], limited) + second.log_prob(a[1:])
        for distribution in (
            DiagonalGaussian(mean, log_std),
            GaussianMixture(torch.zeros(2).double(), mean.expand(2, 2), log_std.expand(2, 2)),
        ):
            torch.testing.assert_close(applied_log_prob(distribution, a, both), expected)


@pytest.mark.parametrize("head", ["squashed-gaussian", "beta"])
def test_bounded_heads_are_asked_inside_of_their_limits(head):
    actions = ContinuousActions(torch.tensor([-2.0]), torch.tensor([3.0]))
    policy = mbrl.Policy(1, actions, NetworkSettings(head=head, normalize=False)).requires_grad_(False)
    distribution = policy.distribution(torch.zeros(3, 1))
    at = applied_log_prob(distribution, torch.tensor([[1.0], [0.9999], [0.2]]), policy)
    assert bool(at.isfinite().all())
    assert float(at[0]) == float(at[1])
    torch.testing.assert_close(at[2], distribution.log_prob(torch.tensor([[1.0], [0.9999], [0.2]]))[2])


# Ends of episodes


class Corridor(gymnasium.Env):
    """Walk right or stay; the fourth cell ends the episode, and so do eight steps. Cells are observed in two columns."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)
    ends = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = self.time = 0
        return self._seen(), {}

    def step(self, action):
        self.cell, self.time = self.cell + int(action), self.time + 1
        return self._seen(), 1.0, self.ends and self.cell == 3, self.time == 8, {}

    def _seen(self):
        return np.array([float(self.cell), 1.0])


class Endless(Corridor):
    ends = False


def corridor():
    return gymnasium.wrappers.TimeLimit(Corridor(), 8)


def demonstration(*actions, terminated=None):
    cells = np.cumsum([0, *actions])
    over = bool(cells[-1] == 3) if terminated is None else terminated
    observations = np.stack([cells.astype(float), np.ones(len(cells))], -1)
    controls = np.array(actions, dtype=float)[:, None]
    return Trajectory(observations, controls, dt=1.0, terminated=over, truncated=not over)


SMALL = PPO(num_envs=2, steps_per_iteration=32, epochs=2, network=NetworkSettings(hidden=(8,)))
TELLING = DiscriminatorSettings(hidden=(8,), updates=3, batch_size=16)
WALKS = [demonstration(1, 1, 1), demonstration(0, 1, 0, 1, 0, 0, 0, 0)]


def small(kind=GAIL, **settings):
    return kind(policy=SMALL, discriminator=TELLING, **{"horizon": "absorbing", **settings})


def first(algorithm, task=corridor, demonstrations=WALKS, steps=1000, seed=0):
    return algorithm.learner(Assignment(task, steps, seed, demonstrations))


def test_ends_that_differ_are_an_error_unless_they_are_taken_care_of():
    with pytest.raises(ValueError, match=r"1 of 2 demonstrations terminate: .*horizon=\"absorbing\""):
        first(small(horizon="fixed"))
    cut = [demonstration(0, 1, 0), demonstration(0, 1)]
    with pytest.raises(ValueError, match=r"demonstrations are of 2 to 3 steps"):
        first(small(horizon="fixed"), demonstrations=cut)
    with pytest.raises(mbrl.TrainingError, match=r"episodes of the learner have terminated, after .* steps on average"):
        first(small(horizon="fixed"), demonstrations=[demonstration(*8 * [0])]).iterate()
    learner = first(small(horizon="fixed"), task=Endless, demonstrations=[demonstration(*8 * [0])])
    assert learner.iterate()["rollout/length"] == 8
    first(small(horizon="variable")).iterate()


def test_demonstrated_episodes_go_on_in_the_absorbing_state():
    """The first ends after 3 of 8 steps, so that 5 are left; the second is cut off by the time limit, and goes on nowhere."""
    learner = first(small())
    found = learner.expert_rows()
    blocks = learner.discriminator.model.encoding.blocks
    assert learner.horizon_steps == 8
    assert found.absorbed == 5
    assert len(found.rows) == 11
    following = found.rows[:, blocks["next"]][:, -1]
    assert following.nonzero().flatten().tolist() == [2]
    assert found.rows[:, blocks["state"]][:, -1].sum() == 0
    assert torch.equal(found.rows[2, blocks["next"]], torch.tensor([0.0, 0.0, 1.0]))


def test_absorbed_steps_are_drawn_as_often_as_they_occur():
    rows, absorbing = torch.arange(6.0).reshape(3, 2), torch.tensor([-1.0, -1.0])
    drawn = Rows(rows, torch.tensor([1.0, 2.0, 3.0]), absorbed=5).draw(
        80_000, absorbing, torch.Generator().manual_seed(0)
    )
    shares = [float((drawn.rows == row).all(-1).double().mean()) for row in (*rows, absorbing)]
    assert shares == pytest.approx([1 / 8, 1 / 8, 1 / 8, 5 / 8], abs=0.01)
    over = (drawn.rows == absorbing).all(-1)
    assert bool((drawn.log_probs[over] == 0).all())
    assert torch.equal(drawn.log_probs[~over], drawn.rows[~over][:, 0] / 2 + 1)


def always_right(learner):
    """Let a policy of two actions take the second."""
    with torch.no_grad():
        learner.policy.head.layer.weight.zero_()
        learner.policy.head.layer.bias.copy_(torch.tensor([-50.0, 50.0]))


def spied(learner):
    """What the on-policy learner and the discriminator are handed from now on."""
    seen = []
    learn, update = learner.on_policy.learn, learner.discriminator.update
    learner.on_policy.learn = lambda rollout: seen.append(rollout) or learn(rollout)
    learner.discriminator.update = lambda expert, rows: seen.append((expert, rows)) or update(expert, rows)
    return seen


@pytest.mark.parametrize("kind", [GAIL, AIRL])
def test_the_end_of_the_learner_is_worth_what_follows(kind):
    """Two worlds of 16 steps that end every third step: 5 ends each, after each of which 5 of 8 steps are left."""
    algorithm = small(kind)
    learner = first(algorithm)
    learner.iterate()
    always_right(learner)
    learner.on_policy.worlds.begin(0)
    seen = spied(learner)
    learner.iterate()
    (_, rows), paid = seen
    assert paid.terminated.sum(0).tolist() == [5, 5]
    assert rows.absorbed == 2 * 5 * 5
    assert len(rows.rows) == 32
    model = learner.discriminator.model
    each = float(model.absorbing_reward().detach())
    assert each != 0
    plain = algorithm.pay(model, rows.rows, rows.log_probs).detach().reshape(16, 2)
    expected = plain + 99 * each * paid.terminated
    torch.testing.assert_close(paid.rewards.float(), expected.float(), rtol=1e-4, atol=1e-4)
    learner.iterate()  # the sixteenth step was the first of the sixth episode, so that two more end it
    (_, later), _ = seen[2:]
    assert later.absorbed == 2 * 5 * 5
    known = learner.reward.worth_of_the_end(0.99)  # who acts for the reward afterwards is paid the same
    torch.testing.assert_close(learner._after_the_end(paid), known * paid.terminated.double())


def test_rewards_to_the_end_and_for_ever_after_are_one_number_when_all_are_equal():
    """With the same reward in every state, the absorbing one included, an end is neither good nor bad: r / (1 - gamma)."""
    learner = first(small(reward_form="positive"), demonstrations=[])
    seen = spied(learner)
    learner.iterate()
    (paid,) = seen
    half, over = np.log(2), paid.terminated
    assert bool(over.any())
    np.testing.assert_allclose(paid.rewards[~over], half, rtol=1e-6)
    np.testing.assert_allclose(paid.rewards[over], half / (1 - 0.99), rtol=1e-6)


def test_without_demonstrations_there_is_nothing_to_tell_apart():
    learner = first(small(), demonstrations=[])
    before, acted = ([p.clone() for p in n.parameters()] for n in (learner.discriminator.model, learner.policy))
    row = learner.iterate()
    assert all(map(torch.equal, before, learner.discriminator.model.parameters()))
    assert all(map(torch.equal, acted, learner.policy.parameters()))  # all is worth the same: not even noise is learned
    assert "train/discriminator_loss" not in row
    assert row["train/reward"] == 0
    assert learner.horizon_steps == 8
    with pytest.raises(ValueError, match="this training has no demonstrations"):
        learner.expert_rows()
    with pytest.raises(ValueError, match="GAIL learns from demonstrations; pass demonstrations="):
        first(small(), demonstrations=None)


@pytest.mark.parametrize(
    ("env", "limit"),
    [
        ("CartPole-v1", 500),
        ("Swimmer-v5", 1000),
        (lambda: corridor(), 8),
        (Corridor, None),
        (replace(mbrl.point_navigation("torch"), episode_steps=17), 17),
    ],
)
def test_how_long_episodes_are(env, limit):
    worlds = mbrl.envs.making.vector_env(env, 2)
    assert episode_limit(worlds) == limit
    worlds.close()


# What the learner is paid


@pytest.mark.parametrize("recurrent", [0, 5])
def test_the_expert_is_as_likely_as_it_is_under_the_present_policy(recurrent):
    algorithm = AIRL(
        policy=replace(SMALL, sequence_length=4, network=NetworkSettings(hidden=(8,), recurrent=recurrent)),
        discriminator=TELLING,
        horizon="absorbing",
    )
    learner = first(algorithm)
    for _ in range(2):
        found, expected = learner.expert_rows().log_probs, []
        policy = learner.policy
        for walk in WALKS:
            hidden = policy.initial_hidden(1)
            for y, u in zip(torch.from_numpy(walk.observations.copy()), walk.controls[:, 0], strict=False):
                distribution, hidden = policy.step(policy.inputs(y[None]), hidden)
                expected.append(float(distribution.log_prob(torch.tensor([int(u)])).detach()))
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)
        learner.iterate()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_airl_pays_f_and_the_entropy(weight):
    """In expectation -log pi is the entropy of the policy."""
    algorithm = small(AIRL, entropy_weight=weight)
    learner = first(algorithm)
    learner.iterate()
    seen, policy = spied(learner), learner.policy
    rollout_policy = {name: value.clone() for name, value in policy.state_dict().items()}
    learner.iterate()
    (_, rows), paid = seen
    old = mbrl.Policy(policy.observation_dim, policy.actions, policy.settings)
    old.load_state_dict(rollout_policy)
    log_probs = old.distribution(paid.observations).log_prob(paid.actions).detach()
    torch.testing.assert_close(rows.log_probs.reshape(16, 2), log_probs, rtol=1e-4, atol=1e-5)
    f = learner.discriminator.model.of_rows(rows.rows).detach().reshape(16, 2)
    inside = ~paid.terminated
    torch.testing.assert_close(paid.rewards[inside].float(), (f - weight * log_probs)[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["signed", "positive", "negative"])
def test_gail_pays_the_form_that_was_asked_for(form):
    learner = first(small(reward_form=form))
    learner.iterate()
    seen = spied(learner)
    learner.iterate()
    (_, rows), paid = seen
    inside = ~paid.terminated.flatten()
    expected = learner.reward.of_rows(rows.rows).detach()
    torch.testing.assert_close(paid.rewards.flatten()[inside].float(), expected[inside], rtol=1e-4, atol=1e-5)
    assert learner.reward.form == form


def test_the_returns_that_are_reported_are_true_ones():
    row = first(small(), demonstrations=WALKS).iterate()
    assert row["rollout/return"] == row["rollout/length"]  # a reward of one in each step
    names = {"discriminator_loss", "discriminator_entropy", "expert_accuracy", "learner_accuracy", "reward", "entropy"}
    assert {f"train/{name}" for name in names} <= row.keys()
    assert all(np.isfinite(value) for value in row.values())


def test_statistics_are_of_expert_and_learner_half_each():
    learner = first(small())
    learner.iterate()
    normalizer = learner.discriminator.model.encoding.normalizer
    of_expert = np.concatenate([w.observations[:-1, 0] for w in WALKS]).mean()
    of_learner = float(learner.policy.normalizer.mean[0])
    assert float(normalizer.count) == 64
    assert float(normalizer.mean[0]) == pytest.approx((of_expert + of_learner) / 2)


# Training


KINDS = {
    "gail": small(),
    "gail, spectral": replace(small(), discriminator=replace(TELLING, spectral_norm=True, weight_decay=0.01)),
    "airl": small(AIRL),
    "airl of actions, trpo": AIRL(
        policy=TRPO(num_envs=2, steps_per_iteration=32, network=NetworkSettings(hidden=(8,))),
        discriminator=replace(TELLING, dtype="float64"),
        inputs="state-action",
        shaping=False,
        horizon="absorbing",
    ),
}


@pytest.mark.parametrize("algorithm", [pytest.param(a, id=name) for name, a in KINDS.items()])
def test_a_learner_that_was_loaded_goes_on(algorithm):
    """On worlds that are kept, to the bit."""
    task = replace(mbrl.pendulum_swing_up("torch"), episode_steps=10)
    demonstrations = mbrl.record(task, mbrl.Policy.for_task(task, seed=3), 2, deterministic=False)
    learner = first(algorithm, task, demonstrations)
    learner.iterate()
    state = learner.state_dict()
    _check_state("state", state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = first(algorithm, task, demonstrations)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other._elapsed.tolist() == [6, 6]  # of the second episode, which is how much is left after its end
    for _ in range(2):
        row, of_other = ({n: v for n, v in one.iterate().items() if n[:4] != "time"} for one in (learner, other))
        assert row == of_other
    for name, network in learner.networks.items():
        pairs = zip(network.state_dict().values(), other.networks[name].state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
    assert learner.exact


@pytest.mark.parametrize("algorithm", [pytest.param(a, id=name) for name, a in KINDS.items()])
def test_a_run_leaves_policy_and_reward(algorithm, tmp_path):
    result = mbrl.train(algorithm, corridor, steps=64, demonstrations=WALKS, run=tmp_path, evaluation_episodes=0)
    loaded = mbrl.load_reward(tmp_path)
    step = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0, 1.0]])
    assert torch.equal(loaded(*step), result.reward(*step))
    assert float(loaded(*step).detach()) != 0
    assert result.reward is result.learner.reward
    assert result.value is result.learner.value
    if isinstance(algorithm, AIRL):
        assert isinstance(result.reward, RewardNetwork)
        assert result.reward.inputs == algorithm.inputs
    same = mbrl.train(algorithm, corridor, steps=64, demonstrations=WALKS, evaluation_episodes=0)
    assert torch.equal(loaded(*step), same.reward(*step))


class Doubled(Processes):
    """Two processes that hold the same samples."""

    def __init__(self):
        self.number, self.rank = 2, 0

    def sum(self, values):
        return 2 * values

    def sum_into(self, values):
        values *= 2


def test_processes_share_what_they_learn_from():
    """A second process with the same rows changes no mean, and so not a bit: two is a power of two."""
    found = []
    for processes in (Processes(), Doubled()):
        model = RewardNetwork(2, UNLIMITED, hidden=(4,), inputs="state")
        telling = Discriminator(TELLING, model, torch.Generator().manual_seed(0), processes)
        rows = model.encode(torch.arange(20.0).reshape(10, 2))
        row = telling.update(Rows(rows[:5], torch.zeros(5)), Rows(rows[5:], torch.zeros(5)))
        found.append((row, *model.state_dict().values()))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1:], found[1][1:]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GAIL(inputs="action"), "inputs must be one of 'state', .* got 'action'"),
        (lambda: GAIL(horizon="long"), "horizon must be one of 'fixed', 'absorbing', 'variable', got 'long'"),
        (lambda: GAIL(reward_form="log"), "reward_form must be one of 'signed', 'positive', 'negative', got 'log'"),
        (lambda: AIRL(entropy_weight=-1.0), "entropy_weight must be a finite number and not negative"),
        (lambda: GAIL(policy=PPO(discount=1.0), horizon="absorbing"), "needs policy.discount < 1, got 1.0"),
        (lambda: DiscriminatorSettings(updates=0), "updates must be an integer of at least 1"),
        (lambda: DiscriminatorSettings(gradient_penalty=-1.0), "gradient_penalty must be a finite number and not neg"),
        (lambda: DiscriminatorSettings(label_smoothing=0.5), "label_smoothing must be less than 0.5"),
        (lambda: DiscriminatorSettings(hidden=(0,)), "hidden must be whole numbers of at least 1"),
        (lambda: DiscriminatorSettings(activation="abs"), "activation must be one of"),
        (lambda: DiscriminatorSettings(dtype="half"), "dtype must be float32 or float64"),
        (lambda: first(small(), "Pendulum-v1"), "demonstrations have 2 columns of observations, the task has 3"),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_settings_of_another_kind_are_told():
    with pytest.raises(TypeError, match=r"policy must be an on-policy algorithm such as mbrl\.PPO\(\), got BC"):
        GAIL(policy=mbrl.BC())
    with pytest.raises(TypeError, match=r"discriminator must be mbrl\.DiscriminatorSettings"):
        AIRL(discriminator={"updates": 3})


# It learns


@pytest.fixture(scope="module")
def balancing():
    """Five episodes of an expert of CartPole-v1, and its return and that of random actions."""
    expert = mbrl.train(
        PPO(num_envs=8, steps_per_iteration=1024, learning_rate=1e-3),
        "CartPole-v1",
        steps=60_000,
        evaluation_episodes=0,
    )
    env = gymnasium.make("CartPole-v1")
    demonstrations = mbrl.record_env(env, expert.policy, 5, dt=0.02, seed=1)
    random = mbrl.record_env(env, None, 20, dt=0.02, seed=2)
    best, worst = (np.mean([t.rewards.sum() for t in found]) for found in (demonstrations, random))
    return demonstrations, best, worst


IMITATION = GAIL(
    policy=PPO(num_envs=8, steps_per_iteration=1024, learning_rate=1e-3, minibatch_size=128), horizon="absorbing"
)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "low", "high"), [(5, 0.9, 1.1), (0, -0.1, 0.1)])
def test_gail_learns_from_demonstrations_and_from_nothing_else(balancing, number, low, high):
    """With absorbing states, how long episodes are teaches nothing: without demonstrations nothing is learned."""
    demonstrations, best, worst = balancing
    result = mbrl.train(
        IMITATION, "CartPole-v1", steps=40_000, demonstrations=demonstrations[:number], evaluation_episodes=20
    )
    reached = (np.mean(result.evaluation.returns) - worst) / (best - worst)
    assert low <= reached <= high


@pytest.mark.slow
def test_without_absorbing_states_a_positive_reward_learns_to_survive_from_nothing(balancing):
    """The survival bias of Kostrikov et al. 2019, section 4.1: -log(1 - D) = log 2 in each step is all that is paid."""
    _, best, worst = balancing
    biased = replace(IMITATION, horizon="variable", reward_form="positive")
    result = mbrl.train(biased, "CartPole-v1", steps=40_000, demonstrations=[], evaluation_episodes=20)
    assert (np.mean(result.evaluation.returns) - worst) / (best - worst) > 0.5


# The command line


@pytest.fixture
def swings(tmp_path):
    """A file with two demonstrations."""
    task = mbrl.pendulum_swing_up("torch")
    episodes = mbrl.record(task, mbrl.Policy.for_task(task, seed=3), 2, steps=20, deterministic=False)
    write_trajectories(tmp_path / "swings.npz", episodes)
    return tmp_path / "swings.npz"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "gail",
            ["--policy", "ppo", "--policy.epochs", 1, "--policy.objective", "KLPenalty", "--reward-form", "positive"],
        ),
        ("airl", ["--policy", "TRPO", "--policy.kl-limit", 0.02, "--inputs", "state-action", "--entropy-weight", 0.5]),
        ("airl", ["--discriminator.updates", 2, "--discriminator.gradient-penalty", 0]),
    ],
)
def test_the_command_trains(kind, words, swings, tmp_path, monkeypatch, capsys):
    module = importlib.import_module("mbrl.plots.train_sections")
    monkeypatch.setattr(module, "plot_learning_curves", lambda *args: new_figure(1, 1))  # whose labels take a second
    small = ["--policy.num-envs", 2, "--policy.steps-per-iteration", 16, "--policy.network.hidden", 8, "--steps", 32]
    where = ["--task", "PendulumSwingUp", "--backend", "torch", "--demos", swings, "--run", tmp_path / "run"]
    quick = ["--no-video", "--evaluation-episodes", 0]
    status = main([str(word) for word in ["train", kind, *where, *small, *words, *quick]])
    assert (status, capsys.readouterr().err) == (0, "")
    algorithm = mbrl.read_run(tmp_path / "run").config["algorithm"]
    assert algorithm["class"] == kind.upper()
    assert algorithm["policy"]["num_envs"] == 2
    assert algorithm["policy"]["class"] == ("TRPO" if "TRPO" in words else "PPO")
    if "TRPO" in words:
        assert (algorithm["policy"]["kl_limit"], algorithm["entropy_weight"]) == (0.02, 0.5)
    assert mbrl.load_reward(tmp_path / "run").observation_dim == 3


@pytest.mark.parametrize("kind", ["gail", "airl"])
def test_the_page_of_an_environment_examines_the_reward(kind, tmp_path, monkeypatch, capsys):
    module = importlib.import_module("mbrl.plots.train_sections")
    monkeypatch.setattr(module, "plot_learning_curves", lambda *args: new_figure(1, 1))
    with contextlib.closing(gymnasium.make("CartPole-v1")) as env:
        shown = mbrl.record_env(env, None, 3, dt=0.02, seed=4)
    write_trajectories(tmp_path / "demos.npz", shown)
    small = ["--policy.num-envs", 2, "--policy.steps-per-iteration", 16, "--policy.network.hidden", 8, "--steps", 32]
    where = ["--task", "CartPole-v1", "--demos", tmp_path / "demos.npz", "--run", tmp_path / "run"]
    quick = ["--no-video", "--evaluation-episodes", 0, "--horizon", "absorbing"]
    command = [str(word) for word in ["train", kind, *where, *small, *quick]]
    assert main(command) == 0
    said, err = capsys.readouterr()
    assert err == ""
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("learned reward, CartPole-v1:", "correlation of sums along episodes", "true return: expert"):
        assert text in said
    for text in ("Learned reward", "Means of features over all steps", "Learned and true reward of each transition"):
        assert text in page
    assert "no demonstrations" not in page
    assert main([*command, "--control"]) == 0  # the run is finished, and its page made anew
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no demonstrations" in page
    capsys.readouterr()
    monkeypatch.setattr(mbrl, "reward_report", None)  # which is not asked again
    assert main([*command, "--control"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'} is finished, and its page has the control\n"
    assert (tmp_path / "run" / "report.html").read_text() == page


def test_the_control_is_trained_on_the_device_of_the_training(tmp_path, monkeypatch):
    module = importlib.import_module("mbrl.plots.train_sections")
    monkeypatch.setattr(module, "plot_learning_curves", lambda *args: new_figure(1, 1))
    trained = importlib.import_module("mbrl.training.train")
    whole, devices = trained.train, []

    def train(*args, **options):
        devices.append(torch.device(options["device"]))
        return whole(*args, **options)

    monkeypatch.setattr(trained, "train", train)
    monkeypatch.setattr(mbrl, "train", train)
    with contextlib.closing(gymnasium.make("CartPole-v1")) as env:
        write_trajectories(tmp_path / "demos.npz", mbrl.record_env(env, None, 1, dt=0.02))
    small = ["--policy.num-envs", 2, "--policy.steps-per-iteration", 16, "--policy.network.hidden", 8, "--steps", 32]
    where = ["--task", "CartPole-v1", "--demos", tmp_path / "demos.npz", "--run", tmp_path / "run"]
    quick = ["--no-video", "--evaluation-episodes", 0, "--horizon", "absorbing", "--control", "--device", "cpu:0"]
    assert main([str(word) for word in ["train", "gail", *where, *small, *quick]]) == 0
    assert devices == [torch.device("cpu", 0)] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["ppo", "--task", "CartPole-v1", "--steps", 10, "--control"],
            r"--control is for adversarial algorithms \((gail, airl|airl, gail)\), got ppo",
        ),
        (
            ["gail", "--task", "Gridworld", "--steps", 10, "--demos", "a.npz", "--control"],
            "--control is for tasks and environments, got Gridworld, a world in tables",
        ),
        (["gail", "--task", "CartPole-v1", "--steps", 10], "gail learns from demonstrations: --demos FILE"),
        (
            ["gail", "--task", "CartPole-v1", "--policy", "bc"],
            "--policy knows no 'bc'; .*there is a2c, ppo, reinforce, trpo",
        ),
        (["ppo", "--task", "CartPole-v1", "--policy", "trpo"], "ppo has no --policy; it is an option of airl, gail"),
    ],
)
def test_the_command_tells_what_does_not_fit(words, message, capsys):
    assert main([str(word) for word in ["train", *words]]) == 2
    assert re.search(message, capsys.readouterr().err)
