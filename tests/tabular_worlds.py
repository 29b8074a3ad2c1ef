"""Small processes for the tests of tabular planning and learning, and all of their trajectories."""

import itertools
import math

import torch

from planners import TabularMDP

DOUBLE = torch.float64


def random_mdp(seed, S=4, A=3, *, discount=0.9, horizon=math.inf, deterministic=False, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    if deterministic:
        P = torch.nn.functional.one_hot(torch.randint(S, (S, A), generator=generator), S).double()
    else:
        P = torch.rand(S, A, S, generator=generator, dtype=DOUBLE) ** 2
        P = P / P.sum(-1, keepdim=True)
    initial = torch.rand(S, generator=generator, dtype=DOUBLE)
    rewards = torch.randn(S, A, generator=generator, dtype=DOUBLE)
    numbers = (x.to(dtype) for x in (P, rewards, initial / initial.sum()))
    P, rewards, initial = numbers
    return TabularMDP(P, rewards, discount=discount, initial=initial, horizon=horizon)


def random_policy(mdp, seed, *batch):
    generator = torch.Generator().manual_seed(seed)
    shape = (mdp.steps,) if mdp.finite else ()
    logits = torch.randn(*batch, *shape, mdp.states, mdp.actions, generator=generator, dtype=DOUBLE)
    return logits.softmax(-1).to(mdp.transitions.dtype)


def all_trajectories(mdp):
    """Every (states, actions) of a finite horizon."""
    S, A, T = mdp.states, mdp.actions, mdp.steps
    for states in itertools.product(range(S), repeat=T + 1):
        for actions in itertools.product(range(A), repeat=T):
            yield states, actions


def probability(mdp, policy, states, actions):
    """Of a trajectory under a policy of each step."""
    p = mdp.start[states[0]]
    for t, a in enumerate(actions):
        p = p * policy[t, states[t], a] * mdp.transitions[states[t], a, states[t + 1]]
    return p
