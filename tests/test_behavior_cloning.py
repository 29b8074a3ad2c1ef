"""Behavioral cloning against the closed forms of maximum likelihood, and on sequences, limits and interruptions."""

import itertools

import numpy as np
import pytest
import torch

import mbrl
from dynamics import LinearDynamics, Trajectory
from mbrl import BC, Assignment, NetworkSettings
from mbrl.imitation.labels import Labels, Material, log_likelihood, read_demonstrations
from planners import QuadraticCost

HEADS = ("gaussian", "squashed-gaussian", "beta", "mixture", "categorical")
LINEAR = NetworkSettings(hidden=(), dtype="float64", initial_std=1.0)


def linear_task(n=3, m=2, *, control_values=None, names=None):
    """A task of n observed states and m controls between -1 and 1; its dynamics do not matter here."""
    return mbrl.Task(
        "Linear",
        LinearDynamics(0.5 * torch.eye(n).double(), torch.ones(n, m).double(), dt=0.1),
        QuadraticCost(torch.eye(n).double(), torch.eye(m).double()),
        (-1.0, 1.0),
        lambda batch, generator: torch.randn(batch, n, generator=generator, dtype=torch.float64),
        horizon=5,
        episode_steps=8,
        control_values=control_values,
        observation_names=names,
    )


def trajectories(observations, controls, lengths):
    ends = np.cumsum(lengths)
    pairs = ((observations[e - n : e], controls[e - n : e]) for e, n in zip(ends, lengths, strict=True))
    return [Trajectory(np.concatenate([y, y[-1:]]), u, dt=0.1) for y, u in pairs]


def clone(task, demonstrations, *, steps, settings, **options):
    options = {"evaluation_episodes": 0, **options}
    return mbrl.train(settings, task, demonstrations=demonstrations, steps=steps, **options)


def test_a_linear_policy_becomes_the_least_squares_solution():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(400, 3)) @ np.diag([1.0, 10.0, 0.1]) + [0.0, 5.0, -2.0]
    K, noise = np.array([[0.2, -0.01, 1.0], [0.1, 0.02, -2.0]]), np.array([0.05, 0.2])
    u = y @ K.T + noise * rng.normal(size=(400, 2))  # some beyond the limits: a Gaussian has none
    settings = BC(network=LINEAR, batch_size=400, learning_rate=0.1, validation_share=0.0)
    result = clone(linear_task(), trajectories(y, u, [50] * 8), steps=500, settings=settings)
    regressors = np.column_stack([y, np.ones(len(y))])
    solution = np.linalg.lstsq(regressors, u, rcond=None)[0]
    residual = u - regressors @ solution
    found = result.policy.distribution(torch.from_numpy(y))
    np.testing.assert_allclose(found.mean.detach(), regressors @ solution, atol=1e-3)
    np.testing.assert_allclose(found.log_std[0].detach(), np.log(residual.std(axis=0)), atol=1e-3)
    best = 0.5 * (1 + np.log(2 * np.pi)) * 2 + np.log(residual.std(axis=0)).sum()
    assert result.metrics["train/loss"][-1] == pytest.approx(best, abs=1e-5)


def test_a_categorical_policy_becomes_the_empirical_frequencies():
    rng = np.random.default_rng(0)
    values = torch.tensor([[-1.0], [0.0], [1.0]]).double()
    context = rng.integers(2, size=300)
    choice = np.where(context == 0, rng.choice(3, 300, p=[0.7, 0.2, 0.1]), rng.choice(3, 300, p=[0.1, 0.3, 0.6]))
    demonstrations = trajectories(np.eye(2)[context], values.numpy()[choice], [30] * 10)
    network = NetworkSettings(hidden=(), normalize=False, dtype="float64")
    settings = BC(network=network, batch_size=300, learning_rate=0.1, validation_share=0.0)
    task = linear_task(2, 1, control_values=values)
    policy = clone(task, demonstrations, steps=200, settings=settings).policy
    frequencies = [[np.mean(choice[context == c] == k) for k in range(3)] for c in range(2)]
    probabilities = policy.distribution(torch.eye(2).double()).logits.softmax(-1)
    np.testing.assert_allclose(probabilities.detach(), frequencies, atol=1e-3)


def memory_task_demonstrations(number=64):
    """The first observation says which action to give all along; later ones are zero. Episodes of 3 to 8 steps."""
    rng = np.random.default_rng(0)
    lengths, signs = rng.integers(3, 9, number), rng.choice([-1.0, 1.0], number)
    found = []
    for n, sign in zip(lengths, signs, strict=True):
        y = np.zeros((n + 1, 1))
        y[0] = sign
        found.append(Trajectory(y, np.full((n, 1), 0.5 * sign), dt=0.1))
    return found


@pytest.mark.parametrize(("sequence_length", "recurrent"), [(128, 16), (2, 16), (128, 0)])
def test_memory_solves_what_no_memoryless_policy_can(sequence_length, recurrent):
    network = NetworkSettings(hidden=(16,), recurrent=recurrent, initial_std=0.5)
    settings = BC(network=network, batch_size=128, learning_rate=2e-2, sequence_length=sequence_length)
    policy = clone(linear_task(1, 1), memory_task_demonstrations(), steps=120, settings=settings).policy
    memory, errors = policy.init(2), []
    for t in range(8):
        y = torch.tensor([[1.0], [-1.0]]) * (t == 0)
        u, memory = policy.act(y, memory)
        errors.append(float((u - torch.tensor([[0.5], [-0.5]])).abs().max()))
    if recurrent:
        assert max(errors) < 0.1
    else:  # one action for both: half a half width off at least, whatever it is
        assert min(errors[1:]) >= 0.5 - 1e-6


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("recurrent", [0, 5])
def test_sequences_of_unequal_lengths_count_as_each_alone(head, recurrent):
    values = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [1.0, 1.0]]).double() if head == "categorical" else None
    task, generator = linear_task(3, 2, control_values=values), torch.Generator().manual_seed(1)
    policy = mbrl.Policy.for_task(task, NetworkSettings(head, (7,), recurrent=recurrent, dtype="float64"), seed=3)
    for parameter in policy.head.parameters():
        parameter.data.normal_(generator=generator)
    lengths = torch.tensor([4, 1, 9, 6])
    y = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    a = 1.9 * torch.rand(20, 2, generator=generator, dtype=torch.float64) - 0.95
    actions = torch.randint(3, (20,), generator=generator) if head == "categorical" else a
    material = Material(Labels(y, actions, lengths), policy, 1e-3, torch.arange(4))
    units = torch.arange(material.units)
    batch = material.batch(units)
    log_probs, _ = log_likelihood(policy, batch, policy.initial_hidden(len(units)))
    assert log_probs.shape == ((9, 4) if recurrent else (1, 20))
    rows = y.split(lengths.tolist()), actions.split(lengths.tolist())
    alone = torch.stack([alone_log_likelihood(policy, *pair) for pair in zip(*rows, strict=True)])
    together = log_probs.sum(0) if recurrent else torch.stack([p.sum() for p in log_probs[0].split(lengths.tolist())])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(together.sum(), [policy.head.layer.weight], retain_graph=True)
    (expected,) = torch.autograd.grad(alone.sum(), [policy.head.layer.weight])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


def alone_log_likelihood(policy, y, actions):
    """Step by step, a batch of one."""
    hidden, total = policy.initial_hidden(1), 0.0
    for row, action in zip(y, actions, strict=True):
        distribution, hidden = policy.step(policy.inputs(row.unsqueeze(0)), hidden)
        total = total + distribution.log_prob(action.unsqueeze(0)).sum()
    return total


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("head", ["squashed-gaussian", "beta"])
def test_an_expert_at_its_limits_is_cloned(head, dtype):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 1))
    demonstrations = trajectories(y, np.sign(y), [20] * 10)
    settings = BC(network=NetworkSettings(head, (16,), dtype=dtype), learning_rate=1e-2)
    result = clone(linear_task(1, 1), demonstrations, steps=150, settings=settings)
    assert np.isfinite(result.metrics["train/loss"]).all()
    u, _ = result.policy.act(torch.tensor([[-1.0], [1.0]]), result.policy.init(2))
    assert u.flatten().tolist() == pytest.approx([-1.0, 1.0], abs=0.05)
    material = Material(read_demonstrations(demonstrations, result.policy, "-"), result.policy, 1e-3, torch.arange(10))
    assert float(material.batch(torch.arange(200)).actions.abs().max()) == pytest.approx(0.999)


def test_the_best_weights_are_kept_and_training_ends_when_it_helps_no_more():
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=(60, 3)), 0.3 * rng.normal(size=(60, 2))  # nothing to learn: only to overfit
    settings = BC(
        network=NetworkSettings(hidden=(64,), initial_std=0.3),
        learning_rate=1e-2,
        validation_share=0.3,
        steps_per_iteration=10,
        patience=4,
    )
    demonstrations = trajectories(y, u, [6] * 10)
    result = clone(linear_task(), demonstrations, steps=2000, settings=settings)
    held_out = result.metrics["train/held_out_loss"]
    assert result.learner.finished
    assert result.steps == 10 * len(held_out) < 2000
    assert np.argmin(held_out) == len(held_out) - 1 - 4
    again = Assignment(linear_task(), 2000, demonstrations=demonstrations)
    split = torch.Generator().manual_seed(again.seed_for("held out"))
    labels = read_demonstrations(demonstrations, result.policy, linear_task())
    learned, others = labels.split(0.3, split)
    assert (len(learned), len(others)) == (7, 3)
    rows = labels.rows(others)
    assert set(rows.tolist()).isdisjoint(labels.rows(learned).tolist())
    kept = result.policy.distribution(labels.observations[rows]).log_prob(labels.actions[rows].float())
    assert -float(kept.mean().detach()) == pytest.approx(held_out.min(), abs=1e-5)
    np.testing.assert_allclose(
        result.policy.normalizer.mean, labels.observations[labels.rows(learned)].mean(0), atol=1e-12
    )


def test_a_column_that_does_not_vary_is_not_blown_up():
    rng = np.random.default_rng(0)
    y = np.column_stack([rng.normal(size=100), np.full(100, 3.0)])
    settings = BC(network=LINEAR, steps_per_iteration=1)
    policy = clone(linear_task(2, 1), trajectories(y, 0.1 * y[:, :1], [10] * 10), steps=1, settings=settings).policy
    assert policy.inputs(torch.tensor([[0.0, 3.1]]).double())[0, 1] == pytest.approx(0.1)


def test_weight_decay_is_that_of_adamw_on_matrices_alone():
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=(100, 3)), 0.5 + 0.2 * rng.normal(size=(100, 2))
    network = NetworkSettings(hidden=(4,), dtype="float64")
    settings = BC(network=network, learning_rate=0.05, weight_decay=3.0, validation_share=0.0, anneal=False)
    policy = clone(linear_task(), trajectories(y, u, [10] * 10), steps=20, settings=settings).policy
    other = mbrl.Policy.for_task(linear_task(), network, seed=Assignment(linear_task(), 20).seed_for("weights"))
    other.normalizer.update(torch.from_numpy(y))
    matrices, vectors = ([p for p in other.parameters() if (p.ndim > 1) == big] for big in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 3.0}, {"params": vectors, "weight_decay": 0.0}], lr=0.05
    )
    for _ in range(20):
        optimizer.zero_grad()
        (-other.distribution(torch.from_numpy(y)).log_prob(torch.from_numpy(u)).mean()).backward()
        optimizer.step()
    for found, expected in zip(policy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("recurrent", [0, 4])
def test_an_interrupted_run_gives_what_an_uninterrupted_one_does(recurrent, tmp_path):
    network = NetworkSettings(hidden=(8,), recurrent=recurrent)
    settings = BC(network=network, batch_size=32, steps_per_iteration=7)
    arguments = {"steps": 40, "settings": settings, "seed": 5}
    demonstrations = mbrl.record(linear_task(), mbrl.UniformNoise((-1.0, 1.0), control_dim=2), 12)
    whole = clone(linear_task(), demonstrations, **arguments)
    counts = itertools.count()

    def stop(row):
        if next(counts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clone(linear_task(), demonstrations, run=tmp_path / "run", on_iteration=stop, **arguments)
    with pytest.raises(mbrl.RunError, match="demonstrations"):
        clone(linear_task(), demonstrations[:-1], run=tmp_path / "run", **arguments)
    resumed = clone(linear_task(), demonstrations, run=tmp_path / "run", **arguments)
    assert whole.steps == resumed.steps == 40
    assert len(whole.metrics["step"]) == 6
    np.testing.assert_array_equal(whole.metrics["train/held_out_loss"], resumed.metrics["train/held_out_loss"])
    loaded = mbrl.load_policy(tmp_path / "run")
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_a_policy_to_begin_with_keeps_its_statistics():
    task, settings = linear_task(), BC(network=LINEAR, steps_per_iteration=1)
    demonstrations = mbrl.record(task, mbrl.UniformNoise((-1.0, 1.0), control_dim=2), 4)
    first = clone(task, demonstrations, steps=1, settings=settings).policy
    shifted = [t.replace(observations=t.observations + 1.0) for t in demonstrations]
    second = clone(task, shifted, steps=1, settings=settings, init=first).policy
    assert torch.equal(first.normalizer.mean, second.normalizer.mean)
    assert not torch.equal(first.head.layer.weight, second.head.layer.weight)


def test_on_a_gymnasium_environment_with_finitely_many_actions():
    """CartPole-v1, from the controls 0 and 1 of a log."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 4))
    u = (y[:, 2:3] > 0).astype(float)
    result = clone("CartPole-v1", trajectories(y, u, [20] * 10), steps=200, settings=BC(learning_rate=1e-2))
    u, _ = result.policy.act(torch.from_numpy(y), result.policy.init(200))
    assert np.mean(u.numpy() == (y[:, 2:3] > 0)) > 0.95


def test_what_does_not_fit_is_refused():
    task, settings = linear_task(names=("a", "b", "c")), BC()
    good = mbrl.record(task, mbrl.UniformNoise((-1.0, 1.0), control_dim=2), 3)
    short = [Trajectory(np.zeros((1, 3)), np.zeros((0, 2)), dt=0.1)]
    wide = [Trajectory(np.zeros((5, 4)), np.zeros((4, 2)), dt=0.1)]
    many = [Trajectory(np.zeros((5, 3)), np.zeros((4, 1)), dt=0.1)]
    renamed = [t.replace(names={"observations": ["a", "c", "b"]}) for t in good]
    beyond = [t.replace(controls=2 * t.controls) for t in good]
    squashed = BC(network=NetworkSettings("squashed-gaussian"))
    for demonstrations, algorithm, words in (
        (None, settings, "pass demonstrations="),
        ([], settings, "the collection is empty"),
        (short, settings, "have no step"),
        (wide, settings, "have 4 columns of observations, the task has 3"),
        (many, settings, "have 1 columns of controls, the task has 2"),
        (renamed, settings, "have observations a, c, b, task Linear has a, b, c"),
        (beyond, squashed, "clip them to the limits, or take the head 'gaussian'"),
    ):
        with pytest.raises(ValueError, match=words):
            clone(task, demonstrations, steps=1, settings=algorithm)
    values = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double()
    with pytest.raises(ValueError, match=r"24 of 24 controls are none of the 2 values.*task.admissible"):
        clone(linear_task(control_values=values), good, steps=1, settings=settings)
    with pytest.raises(TypeError, match="put it in a list"):
        clone(task, good[0], steps=1, settings=settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"patience": 0},
        {"learning_rate": 0.0},
        {"learning_rate": np.inf},
        {"learning_rate": True},
        {"weight_decay": -1.0},
        {"weight_decay": np.nan},
        {"validation_share": 1.0},
        {"validation_share": -0.1},
        {"margin": 0.0},
        {"margin": 1.0},
        {"sequence_length": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be "):
        BC(**wrong)


def test_a_likelihood_that_is_not_finite_ends_training():
    y = np.linspace(-1, 1, 50).reshape(-1, 1)
    settings = BC(network=NetworkSettings(hidden=()), learning_rate=1e30)
    with pytest.raises(mbrl.TrainingError, match="lower the learning rate"):
        clone(linear_task(1, 1), trajectories(y, y, [10] * 5), steps=50, settings=settings)
