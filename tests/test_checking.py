"""Settings that are numbers: what each kind takes, and what it says of the rest."""

import re
from dataclasses import make_dataclass

import numpy as np
import pytest

import mbrl
from mbrl.training.checking import check_numbers

Settings = make_dataclass("Settings", ["value"])
INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("kind", "taken", "refused", "words"),
    [
        ("counts", [1, 7, np.int64(2)], [0, -1, 1.0, True, None, "1"], "an integer of at least 1"),
        ("tallies", [0, 7, np.int64(0)], [-1, 0.0, 1.5, False, None, "0"], "an integer of at least 0"),
        ("rates", [1e-9, 3, np.float32(0.5)], [0, -1, INFINITY, NAN, True, None], "a finite positive number"),
        ("bounds", [1e-9, INFINITY], [0, -INFINITY, NAN, True], "a positive number"),
        ("weights", [0, 0.0, 2.5], [-1e-9, INFINITY, NAN, False], "a finite number and not negative"),
        ("shares", [0, 0.5, 1], [-0.1, 1.1, NAN, True], "a number in [0, 1]"),
    ],
)
def test_each_kind_takes_what_it_says(kind, taken, refused, words):
    for value in taken:
        check_numbers(Settings(value), **{kind: ("value",)})
    for value in refused:
        with pytest.raises(ValueError, match=re.escape(f"value must be {words}, got {value!r}")):
            check_numbers(Settings(value), **{kind: ("value",)})


@pytest.mark.parametrize("steps", [0, -3, 2.0, True, "8"])
def test_a_world_has_episodes_of_at_least_one_step(steps):
    world = mbrl.gridworld(3)
    with pytest.raises(
        ValueError, match=re.escape(f"episode_steps must be an integer of at least 1, or None, got {steps!r}")
    ):
        mbrl.GridWorld(world.mdp, world.features, world.names, world.size, episode_steps=steps)
    one = mbrl.GridWorld(world.mdp, world.features, world.names, world.size, episode_steps=1)
    policy = mbrl.TabularPolicy(uniform(world))
    assert [e.num_steps for e in mbrl.record(one, policy, 2)] == [1, 1]


def uniform(world):
    return world.mdp.transitions.new_full((world.mdp.states, world.mdp.actions), 1.0 / world.mdp.actions)
