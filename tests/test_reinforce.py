"""Policy gradients against the derivative of an expected return that is known exactly."""

from types import SimpleNamespace

import pytest
import torch
from finite_mdp import DOUBLE, STATES, STEPS, FiniteMDP

import mbrl
from mbrl import A2C, REINFORCE, GeneralizedAdvantages, NetworkSettings, NStepAdvantages, RewardsToGo, ValueFunction
from mbrl.on_policy.natural_gradient import flatten
from mbrl.on_policy.policy_gradient import policy_gradient_objective
from mbrl.on_policy.trpo import surrogate
from mbrl.training.flat_parameters import FlatParameters
from mbrl.training.processes import Processes

BASELINES = {
    "zero": torch.zeros(STEPS + 1, STATES + 1, dtype=DOUBLE),
    "random": torch.randn(STEPS + 1, STATES + 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(5)),
    "large": torch.full((STEPS + 1, STATES + 1), 1e3, dtype=DOUBLE),
}
UNBIASED = {
    "rewards to go": RewardsToGo(baseline=False),
    "minus a baseline": RewardsToGo(),
    "lambda one": GeneralizedAdvantages(1.0),
    "as many steps as there are": NStepAdvantages(STEPS),
}


@pytest.fixture(params=range(2))
def mdp(request):
    return FiniteMDP(request.param)


def stand_in(mdp):
    """A learner of nothing but a policy and a value function."""
    value = ValueFunction(NetworkSettings(hidden=()).body(STATES)).to(DOUBLE)
    return SimpleNamespace(
        policy=mdp.policy,
        value=value,
        parameters=FlatParameters(mdp.policy, value),
        processes=Processes(),
        generator=torch.Generator().manual_seed(0),
        progress=0.0,
    )


def ascent(learner):
    """Optimizers whose step is the gradient itself."""
    return {
        name: torch.optim.SGD([part], lr=1.0)
        for name, part in zip(("policy", "value"), learner.parameters.parts, strict=True)
    }


def weights_of(policy):
    return flatten(p.detach() for p in policy.parameters())


def test_probabilities_of_all_trajectories(mdp):
    samples = mdp.samples(RewardsToGo(), BASELINES["zero"])
    starts = samples.starts & (samples.weights > 0)
    assert float(samples.weights[starts].sum()) == pytest.approx(1.0, abs=1e-12)
    expected = float((samples.weights * samples.returns)[starts].sum())
    assert expected == pytest.approx(mdp.expected_return(), abs=1e-12)


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("advantages", UNBIASED.values(), ids=UNBIASED)
def test_the_expectation_is_the_derivative(mdp, advantages, baseline):
    """Also whatever the baseline; the estimate is per step, of which an episode has as many as its expected length."""
    samples = mdp.samples(advantages, baseline)
    new, _ = mdp.policy.sequence(samples.inputs, samples.hidden, samples.starts)
    parameters = list(mdp.policy.parameters())
    for gain in (
        policy_gradient_objective(new, samples, Processes()),
        (surrogate(new, samples) * samples.weights).sum() / samples.weights.sum(),
    ):
        gradient = flatten(torch.autograd.grad(gain, parameters, retain_graph=True)) * samples.weights.sum()
        torch.testing.assert_close(gradient, mdp.gradient(), rtol=0, atol=1e-8)


def test_a_value_that_is_wrong_biases_what_trusts_it(mdp):
    """So that the test above can fail."""
    samples = mdp.samples(GeneralizedAdvantages(0.5), BASELINES["random"])
    new, _ = mdp.policy.sequence(samples.inputs, samples.hidden, samples.starts)
    gain = policy_gradient_objective(new, samples, Processes()) * samples.weights.sum()
    gradient = flatten(torch.autograd.grad(gain, list(mdp.policy.parameters())))
    assert float((gradient - mdp.gradient()).abs().max()) > 1e-5


@pytest.mark.parametrize(
    "algorithm", [REINFORCE(value_epochs=1), A2C(max_gradient_norm=1e9, anneal=False, learning_rate=1.0)]
)
def test_a_step_of_plain_ascent_is_along_the_derivative(mdp, algorithm):
    """With another optimizer in place, whose step is the gradient itself."""
    samples = mdp.samples(RewardsToGo(), BASELINES["random"])
    expected = mdp.gradient() / samples.weights.sum()
    learner = stand_in(mdp)
    if isinstance(algorithm, A2C):
        learner.optimizers = {"rmsprop": torch.optim.SGD([learner.parameters.vector], lr=1.0)}
    else:
        learner.optimizers = ascent(learner)
    before = weights_of(learner.policy)
    row = algorithm.update(learner, samples)
    torch.testing.assert_close(weights_of(learner.policy) - before, expected, rtol=0, atol=1e-8)
    assert row["train/gradient_norm"] == pytest.approx(float(expected.norm()), abs=1e-8)


def test_entropy_is_paid_for(mdp):
    samples = mdp.samples(RewardsToGo(), BASELINES["zero"])
    learner, weight = stand_in(mdp), 0.3
    learner.optimizers = ascent(learner)
    logits = mdp.policy.sequence(samples.inputs, samples.hidden, samples.starts)[0].logits
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    mean = (entropy * samples.weights).sum() / samples.weights.sum()
    bonus = weight * flatten(torch.autograd.grad(mean, list(mdp.policy.parameters())))
    expected = mdp.gradient() / samples.weights.sum() + bonus
    before = weights_of(learner.policy)
    REINFORCE(entropy_weight=weight).improve(learner, samples)
    torch.testing.assert_close(weights_of(learner.policy) - before, expected, rtol=0, atol=1e-8)


def test_the_value_function_is_fitted_to_the_returns(mdp):
    """Enough passes of a linear function reach the weighted least squares solution."""
    samples = mdp.samples(RewardsToGo(), BASELINES["zero"])
    learner = stand_in(mdp)
    learner.optimizers = ascent(learner)
    loss = REINFORCE(value_epochs=200, value_minibatch_size=10**6).fit_value(learner, samples)
    weights, states = samples.weights.flatten(), samples.inputs.flatten(0, 1)
    weights = weights / weights.sum()
    means = (states.mT @ (weights * samples.returns.flatten())) / (states.mT @ weights)
    values = learner.value.step(torch.eye(STATES, dtype=DOUBLE), torch.zeros(STATES, 0, dtype=DOUBLE))[0]
    torch.testing.assert_close(values.detach(), means, rtol=0, atol=1e-8)
    best = 0.5 * float(weights @ (samples.returns.flatten() - states @ means).square())
    assert loss == pytest.approx(best, abs=1e-10)


def test_a_mixture_has_no_entropy_to_log_and_learns():
    algorithm = REINFORCE(num_envs=2, steps_per_iteration=16, network=NetworkSettings(head="mixture", hidden=(8,)))
    result = mbrl.train(algorithm, mbrl.point_navigation("torch"), steps=16, evaluation_episodes=0, progress=False)
    assert "train/gradient_norm" in result.metrics
    assert "train/entropy" not in result.metrics


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_settings_that_make_no_sense(rate):
    with pytest.raises(ValueError, match="learning_rate must be a finite positive number, got"):
        REINFORCE(learning_rate=rate)
