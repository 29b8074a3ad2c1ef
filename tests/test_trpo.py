"""Trust regions against explicit Fisher matrices, closed forms and recomputed divergences."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mbrl
from mbrl import TRPO, Assignment, NetworkSettings, NoClosedFormError
from mbrl.on_policy import trpo
from mbrl.on_policy.natural_gradient import flatten, unflatten
from mbrl.on_policy.rollout import collect
from mbrl.on_policy.statistics import normalized
from mbrl.policies.distributions import Beta, Categorical
from mbrl.training.worlds import Worlds

HEADS = {
    "categorical": {"head": "categorical"},
    "gaussian": {"head": "gaussian", "initial_std": 0.7},
    "gaussian, state-dependent": {"head": "gaussian", "state_dependent_std": True},
    "squashed": {"head": "squashed-gaussian", "initial_std": 0.7},
    "beta": {"head": "beta"},
}


SHORT = TRPO(num_envs=2, steps_per_iteration=16, sequence_length=4)


def first(algorithm=SHORT, seed=0, **network):
    """A learner whose weights are as after learning, in float64, and samples of its own."""
    task = mbrl.point_navigation("torch")
    if network.get("head") == "categorical":
        task = mbrl.discretized(task, 2)
    network = {"hidden": (4,), "dtype": "float64"} | network
    algorithm = replace(algorithm, network=NetworkSettings(**network))
    learner = algorithm.learner(Assignment(replace(task, episode_steps=5), steps=1000, seed=seed))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        learner.policy.head.layer.weight.normal_(std=0.5, generator=generator)
    hidden = learner.policy.initial_hidden(algorithm.num_envs)
    steps = algorithm.steps_per_iteration // algorithm.num_envs
    samples, _ = learner.samples(collect(learner.policy, learner.worlds, steps, hidden, learner.generator)[0])
    return algorithm, learner, samples


def information(distribution):
    """The Fisher matrix of a distribution's own parameters, (samples, p, p), and these parameters (samples, p)."""
    own = torch.cat([value.flatten(0, 1).flatten(1) for value in vars(distribution).values()], dim=-1)
    with torch.no_grad():
        if isinstance(distribution, Categorical):
            p = own.softmax(-1)
            return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2), own
        first, second = own.chunk(2, dim=-1)
        if isinstance(distribution, Beta):
            both = torch.polygamma(1, first + second)
            diagonal = torch.cat([torch.polygamma(1, first) - both, torch.polygamma(1, second) - both], -1)
            a = first.shape[-1]
            F = torch.diag_embed(diagonal)
            F[:, range(a), range(a, 2 * a)] = F[:, range(a, 2 * a), range(a)] = -both
            return F, own
        return torch.diag_embed(torch.cat([(-2 * second).exp(), torch.full_like(second, 2.0)], -1)), own


def explicit_fisher(policy, samples):
    """Mean of J^T M J, with M the Fisher matrix of the distributions' parameters and J their Jacobian by the weights."""
    distribution, _ = policy.sequence(samples.inputs, samples.hidden, samples.starts)
    M, own = information(distribution)
    weights = list(policy.parameters())
    rows = [
        flatten(torch.autograd.grad(number, weights, retain_graph=True, materialize_grads=True))
        for number in own.flatten()
    ]
    J = torch.stack(rows).unflatten(0, own.shape)
    return (J.mT @ M @ J).mean(0)


@pytest.mark.parametrize("recurrent", [pytest.param(0, id="feedforward"), pytest.param(3, id="recurrent")])
@pytest.mark.parametrize("network", HEADS.values(), ids=HEADS)
def test_products_with_the_fisher_matrix_of_a_policy(network, recurrent):
    algorithm, learner, samples = first(recurrent=recurrent, **network)
    F = explicit_fisher(learner.policy, samples)
    apply = algorithm.damped_fisher(learner, samples)
    found = torch.stack([apply(e) for e in torch.eye(len(F), dtype=F.dtype)])
    expected = F + algorithm.damping * torch.eye(len(F), dtype=F.dtype)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert float(F.abs().max()) > 0.1


def test_samples_that_do_not_count_have_no_information():
    algorithm, learner, samples = first()
    some = samples.weights.clone()
    some[:, ::3] = 0
    found = algorithm.damped_fisher(learner, replace(samples, weights=some))
    expected = explicit_fisher(learner.policy, samples.pieces(some[0] > 0))
    v = torch.randn(len(expected), dtype=expected.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(v), expected @ v + algorithm.damping * v, rtol=1e-9, atol=1e-11)


def test_the_step_of_a_linear_gaussian_policy():
    """Means w z + b and one sigma: block-diagonal F in closed form, so that the whole step is known."""
    algorithm = TRPO(num_envs=2, steps_per_iteration=64, cg_iterations=50)
    algorithm, learner, samples = first(algorithm, hidden=())
    policy = learner.policy
    before = [p.detach().clone() for p in policy.parameters()]
    row = algorithm.improve(learner, samples)
    z = np.concatenate([samples.inputs[0].numpy(), np.ones((64, 1))], axis=1)
    sigma = before[0].exp().numpy()
    mu = z @ np.concatenate([before[1].numpy(), before[2].numpy()[:, None]], axis=1).T
    error = samples.actions[0].numpy() - mu
    A = samples.advantages[0].numpy()
    A = (A - A.mean()) / A.std()
    beta, delta = algorithm.damping, algorithm.kl_limit
    gradients = [(A[:, None] * (error**2 / sigma**2 - 1)).mean(0)]
    solutions = [gradients[0] / (2 + beta)]
    for i in range(2):
        g = (A[:, None] * error[:, i : i + 1] / sigma[i] ** 2 * z).mean(0)
        F = z.T @ z / len(z) / sigma[i] ** 2
        gradients.append(g)
        solutions.append(np.linalg.solve(F + beta * np.eye(len(g)), g))
    size = np.sqrt(
        2 * delta / sum(g @ x for g, x in zip(gradients, solutions, strict=True))
    )  # x^T (F + beta I) x = x^T g
    moved = [(after - old).detach().numpy() for after, old in zip(policy.parameters(), before, strict=True)]
    moved = [moved[0], *np.concatenate([moved[1], moved[2][:, None]], axis=1)]
    assert [name for name, _ in policy.named_parameters()] == ["head.log_std", "head.layer.weight", "head.layer.bias"]
    assert row["train/step_fraction"] > 0
    for found, x in zip(moved, solutions, strict=True):
        np.testing.assert_allclose(found, row["train/step_fraction"] * size * x, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("network", [HEADS["categorical"], HEADS["gaussian"]], ids=["categorical", "gaussian"])
def test_no_step_leaves_the_trust_region(network, monkeypatch):
    """Divergences and surrogates are computed anew from distributions of copies of the policies."""
    improve, seen = TRPO.improve, []

    def watched(algorithm, learner, samples):
        old = copy.deepcopy(learner.policy)
        row = improve(algorithm, learner, samples)
        seen.append((old, copy.deepcopy(learner.policy), samples, row))
        return row

    monkeypatch.setattr(TRPO, "improve", watched)
    algorithm = TRPO(num_envs=4, steps_per_iteration=64, value_epochs=1)
    _, learner, _ = first(algorithm, dtype="float32", **network)
    for _ in range(20):
        learner.iterate()
    taken = []
    for old, new, samples, row in seen:
        with torch.no_grad():
            before, after = (p.sequence(samples.inputs, samples.hidden, samples.starts)[0] for p in (old, new))
            kl = float(before.kl(after).mean())
            ratios = (after.log_prob(samples.actions) - before.log_prob(samples.actions)).exp()
        A = samples.advantages
        gain = float(((ratios - 1) * (A - A.mean())).mean() / A.std(correction=0))
        assert row["train/kl"] == pytest.approx(kl, rel=1e-3, abs=1e-7)
        assert row["train/surrogate"] == pytest.approx(gain, rel=1e-2, abs=1e-5)
        assert kl <= algorithm.kl_limit * (1 + 1e-4)
        taken.append(row["train/step_fraction"])
        assert (gain > 0) == (taken[-1] > 0)
    assert np.mean(np.array(taken) > 0) > 0.8
    assert np.median([row["train/kl"] for *_, row in seen]) > algorithm.kl_limit / 4


@pytest.mark.parametrize(
    ("size", "reason"),
    [(1e3, "divergence"), (math.nan, "nan"), (math.inf, "infinite"), (-1e-2, "worse"), (0.0, "none")],
)
def test_what_no_candidate_improves_stays_bit_for_bit(size, reason):
    algorithm, learner, samples = first(dtype="float32")
    samples = replace(samples, advantages=normalized(samples.advantages, samples.weights, learner.processes))
    parameters = list(learner.policy.parameters())
    gain = trpo.surrogate(learner.policy.sequence(samples.inputs, samples.hidden, samples.starts)[0], samples).mean()
    uphill, before_step = flatten(torch.autograd.grad(gain, parameters)), gain.item()
    before = copy.deepcopy(learner.policy.state_dict())
    assert algorithm.line_search(learner, samples, size * uphill / uphill.norm(), before_step) == (
        0.0,
        0.0,
        before_step,
    )
    assert all(torch.equal(value, before[name]) for name, value in learner.policy.state_dict().items()), reason
    fraction, kl, after = algorithm.line_search(learner, samples, 1e-2 * uphill / uphill.norm(), before_step)
    assert (fraction, kl <= 0.01, after > before_step) == (1.0, True, True)
    assert not torch.equal(flatten(parameters), flatten(before.values())[: len(uphill)])


@pytest.mark.parametrize("broken", ["negative", "nan", "surrogate"])
def test_an_iteration_that_fails_keeps_the_policy(broken, monkeypatch):
    algorithm, learner, samples = first(dtype="float32")
    before = copy.deepcopy(learner.policy.state_dict())
    if broken == "surrogate":
        surrogate, calls = trpo.surrogate, []

        def worse(new, samples):
            calls.append(new)
            return surrogate(new, samples) - float(len(calls) > 1)

        monkeypatch.setattr(trpo, "surrogate", worse)
    else:
        factor = -1.0 if broken == "negative" else math.nan
        monkeypatch.setattr(TRPO, "damped_fisher", lambda self, learner, samples: lambda v: factor * v)
    row = algorithm.update(learner, samples)
    assert row["train/negative_curvature"] == (broken != "surrogate")
    assert (row["train/step_fraction"], row["train/kl"], row["train/surrogate"]) == (0.0, 0.0, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in learner.policy.state_dict().items())
    assert len(calls) == 1 + algorithm.max_backtracks if broken == "surrogate" else True


def test_a_step_that_is_too_long_is_shortened():
    algorithm, learner, samples = first(TRPO(num_envs=2, steps_per_iteration=64, max_backtracks=100))
    samples = replace(samples, advantages=normalized(samples.advantages, samples.weights, learner.processes))
    parameters = list(learner.policy.parameters())
    start = [p.detach().clone() for p in parameters]
    gain = trpo.surrogate(learner.policy.sequence(samples.inputs, samples.hidden, samples.starts)[0], samples).mean()
    step = 100 * flatten(torch.autograd.grad(gain, parameters))
    fraction, kl, _ = algorithm.line_search(learner, samples, step, gain.item())
    j = math.log(fraction) / math.log(0.8)
    assert j == pytest.approx(round(j))
    assert j > 1
    assert 0 < kl <= algorithm.kl_limit
    for p, a, b in zip(parameters, start, unflatten(step, start), strict=True):
        torch.testing.assert_close(p, a + fraction * b, rtol=0, atol=0)


def test_part_of_the_samples_for_directions():
    algorithm, learner, samples = first(TRPO(num_envs=2, steps_per_iteration=64, fisher_fraction=0.25))
    state = learner.generator.get_state()
    part = algorithm._part(learner, samples)
    assert len(part) == 16
    assert not torch.equal(state, learner.generator.get_state())
    rows = {tuple(row) for row in samples.inputs[0].tolist()}
    assert len({tuple(row) for row in part.inputs[0].tolist()} & rows) == 16
    assert replace(algorithm, fisher_fraction=1.0)._part(learner, samples) is samples


def test_a_mixture_is_refused_before_anything_is_collected(monkeypatch):
    monkeypatch.setattr(Worlds, "step", lambda self, actions: pytest.fail("collected"))
    with pytest.raises(NoClosedFormError, match=r"GaussianMixture does not have; .*head=\"gaussian\".*PPO"):
        mbrl.train(TRPO(network=NetworkSettings(head="mixture")), mbrl.point_navigation("torch"), steps=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_limit": 0.0}, "kl_limit must be a finite positive number"),
        ({"kl_limit": math.inf}, "kl_limit must be a finite positive number"),
        ({"damping": -1.0}, "damping must be a finite number and not negative"),
        ({"backtrack": 1.0}, r"backtrack in \(0, 1\)"),
        ({"fisher_fraction": 0.0}, r"fisher_fraction in \(0, 1\]"),
        ({"cg_iterations": 0}, "cg_iterations must be an integer of at least 1, got 0"),
        ({"max_backtracks": 0}, "max_backtracks must be an integer of at least 1, got 0"),
        ({"value_epochs": 0}, "value_epochs must be an integer of at least 1"),
        ({"value_learning_rate": 0.0}, "value_learning_rate must be a finite positive number"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        TRPO(**settings)


def test_samples_do_not_change_with_the_policy():
    """A standard deviation that is a parameter is part of the distributions."""
    _, learner, samples = first()
    before = copy.deepcopy(samples.distribution)
    assert not before.log_std.requires_grad
    assert not before.mean.requires_grad
    with torch.no_grad():
        for p in learner.policy.parameters():
            p += 1.0
    assert torch.equal(samples.distribution.log_std, before.log_std)
    assert torch.equal(samples.distribution.mean, before.mean)
