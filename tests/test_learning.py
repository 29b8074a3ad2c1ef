"""What the algorithms reach after the steps of a claim, with the settings of ``benchmarks/on_policy.py``; one seed of each."""

from pathlib import Path

import numpy as np
import pytest

from mbrl import interquartile_mean

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def on_policy():
    """The benchmark; its folder is no package."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(BENCHMARKS))
    import on_policy

    yield on_policy
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "algorithm", "least"),
    [
        ("CartPole-v1", "ppo", 475.0),
        ("CartPole-v1", "ppo-kl", 475.0),
        ("CartPole-v1", "trpo", 475.0),
        ("Pendulum-v1", "ppo", -200.0),
        ("Pendulum-v1", "ppo-kl", -200.0),
        ("Pendulum-v1", "trpo", -220.0),
    ],
)
def test_classic_control(on_policy, env, algorithm, least):
    (case,) = [case for case in on_policy.CASES if case.env == env]
    request = {"env": env, "algorithm": algorithm, "steps": case.steps, "seed": 0, "episodes": case.episodes}
    assert interquartile_mean(np.array(on_policy.ours(request)["returns"])) >= least


def test_classic_control_takes_at_most_three_overrides(on_policy):
    assert all(len(settings) <= 3 for settings in on_policy.OVERRIDES.values())
    assert {env for env, _ in on_policy.OVERRIDES} <= {"CartPole-v1", "Pendulum-v1"}
