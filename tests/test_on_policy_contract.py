"""What holds for every training algorithm, on every kind of action."""

import copy
import inspect
import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from instances import ALL_ON_POLICY

import mbrl
from mbrl import Assignment, NetworkSettings, OnPolicy
from mbrl.on_policy.rollout import Samples, collect
from mbrl.on_policy.statistics import explained_variance
from mbrl.policies.distributions import NoClosedFormError
from mbrl.runs.run import _check_state
from mbrl.training.processes import Processes, _on_cpu

ALGORITHMS = pytest.mark.parametrize("algorithm", [pytest.param(a, id=name) for name, a in ALL_ON_POLICY.items()])
TASKS = {
    "discrete": lambda: mbrl.discretized(mbrl.pendulum_swing_up("torch"), 3),
    "continuous": lambda: mbrl.point_navigation("torch"),
}
ON_TASKS = pytest.mark.parametrize("task", [pytest.param(make, id=name) for name, make in TASKS.items()])
MEMORY = pytest.mark.parametrize("recurrent", [pytest.param(0, id="feedforward"), pytest.param(8, id="recurrent")])


def first(algorithm, task, recurrent=0, seed=0):
    """A learner at its first step, of episodes that end within the first iteration."""
    algorithm = replace(algorithm, network=NetworkSettings(hidden=(16,), recurrent=recurrent))
    return algorithm.learner(Assignment(replace(task(), episode_steps=10), steps=1000, seed=seed))


def everything(learner):
    """All tensors of the state, as one list."""

    def tensors(value):
        if isinstance(value, torch.Tensor):
            return [value]
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
        return [found for item in items for found in tensors(item)]

    return tensors(learner.state_dict())


def assert_equal(learner, other):
    pairs = list(zip(everything(learner), everything(other), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_list_is_complete():
    exported = {
        value
        for value in vars(mbrl).values()
        if inspect.isclass(value) and issubclass(value, OnPolicy) and not inspect.isabstract(value)
    }
    missing = exported - {type(algorithm) for algorithm in ALL_ON_POLICY.values()}
    assert not missing, f"add to tests/instances.py: {', '.join(sorted(cls.__name__ for cls in missing))}"


@MEMORY
@ON_TASKS
@ALGORITHMS
def test_two_iterations(algorithm, task, recurrent):
    learner = first(algorithm, task, recurrent)
    before = copy.deepcopy(learner.policy.state_dict())
    random_states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    rows = [learner.iterate(), learner.iterate()]
    assert learner.steps == 128
    for row in rows:
        assert [name for name, number in row.items() if not np.isfinite(number)] == []
        assert all(name.split("/")[0] in ("rollout", "train", "time") for name in row)
    assert rows[0].keys() == rows[1].keys()
    after = learner.policy.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name, _ in learner.policy.named_parameters()} & moved
    assert torch.equal(random_states[0], torch.get_rng_state())
    assert np.array_equal(random_states[1], np.random.get_state()[1])  # noqa: NPY002
    assert random_states[2] == random.getstate()


@ON_TASKS
@ALGORITHMS
def test_the_same_seed_is_the_same_run(algorithm, task):
    runs = [first(algorithm, task, seed=seed) for seed in (1, 1, 2)]
    for _ in range(2):
        for learner in runs:
            learner.iterate()
    assert_equal(runs[0], runs[1])
    assert not torch.equal(runs[0].policy.head.layer.weight, runs[2].policy.head.layer.weight)


@MEMORY
@ON_TASKS
@ALGORITHMS
def test_a_learner_that_was_loaded_goes_on(algorithm, task, recurrent):
    learner = first(algorithm, task, recurrent)
    learner.iterate()
    state = learner.state_dict()
    _check_state("state", state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = first(algorithm, task, recurrent)
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        row, of_other = learner.iterate(), other.iterate()
        assert {n: v for n, v in row.items() if n[:4] != "time"} == {
            n: v for n, v in of_other.items() if n[:4] != "time"
        }
    assert_equal(learner, other)


class Doubled(Processes):
    """Two processes that hold the same samples."""

    def __init__(self):
        self.number, self.rank = 2, 0

    def sum(self, values):
        return 2 * values

    def sum_into(self, values):
        values *= 2


@MEMORY
@ALGORITHMS
def test_processes_share_what_they_learn_from(algorithm, recurrent):
    """A second process with the same samples changes no mean, and so not a bit: two is a power of two."""
    if not isinstance(algorithm, OnPolicy):
        pytest.skip("learns by itself")
    results = []
    for processes in (Processes(), Doubled()):
        learner = first(algorithm, TASKS["continuous"], recurrent)
        samples, _ = learner.samples(
            collect(learner.policy, learner.worlds, 16, learner.policy.initial_hidden(4), learner.generator)[0]
        )
        learner.processes = processes
        results.append((learner, algorithm.update(learner, samples)))
    (one, row), (two, of_two) = results
    assert row == of_two
    assert_equal(one, two)


@pytest.mark.parametrize(
    ("algorithm", "needing"),
    [
        (mbrl.PPO(objective=mbrl.KLPenalty()), "KLPenalty needs an exact divergence"),
        (mbrl.PPO(entropy_weight=0.1), "entropy_weight > 0 needs an exact entropy"),
        (mbrl.A2C(entropy_weight=0.1), "entropy_weight > 0 needs an exact entropy"),
        (mbrl.REINFORCE(entropy_weight=0.1), "entropy_weight > 0 needs an exact entropy"),
        (mbrl.TRPO(), "TRPO needs an exact divergence"),
    ],
    ids=["ppo, penalty", "ppo, entropy", "a2c", "reinforce", "trpo"],
)
def test_formulas_that_a_head_lacks_are_missed_before_anything_is_collected(algorithm, needing):
    algorithm = replace(algorithm, network=NetworkSettings(hidden=(4,), head="mixture"))
    with pytest.raises(NoClosedFormError, match=needing):
        algorithm.learner(Assignment(mbrl.point_navigation("torch"), steps=10_000))


def test_the_penalty_stays_within_bounds():
    objective = mbrl.KLPenalty(target=0.01, initial=2.0)
    low = high = objective.initial
    for _ in range(2000):
        low, high = objective.next_coefficient(low, 0.0), objective.next_coefficient(high, 1.0)
    assert (low, high) == (2e-4, 2e4)
    assert objective.next_coefficient(low, 1.0) == 4e-4


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_returns_that_do_not_vary_have_no_variance_to_explain(value):
    ones = torch.ones(1, 4)
    nothing = {name: ones for name in ("inputs", "actions", "advantages", "starts", "hidden", "value_hidden")}
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    samples = Samples(**nothing, returns=value * ones, values=values, weights=ones)
    assert np.isnan(explained_variance(samples, Processes()))


def test_tensors_that_are_sent_have_a_memory_of_their_own():
    views = torch.arange(1000.0).split(10)
    (sent,) = _on_cpu({"parameters": [views[3]]})["parameters"]
    assert torch.equal(sent, views[3])
    assert sent.untyped_storage().nbytes() == 40
