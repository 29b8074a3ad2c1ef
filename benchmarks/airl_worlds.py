"""Rewards of random worlds learned by AIRL and GAIL: correlation with the truth, and value lost after a change of dynamics."""

import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from planners import TabularMDP

STATES, ACTIONS, DISCOUNT = 20, 4, 0.9
EPISODES, STEPS = 500, 40  # of the demonstrator
ITERATIONS = 300
STEP = 0.3  # of a policy towards the one that is soft-optimal for its own values
LEARNERS = ("AIRL of states, shaped", "AIRL of states and actions", "GAIL")
BY_TRYING = "AIRL of states, shaped, by PPO"
PPO_STEPS = 256_000  # in the world
CASES = (  # learners, and the probability of a move to any state instead of the one that the action leads to
    *((learner, 0.0) for learner in LEARNERS),
    (LEARNERS[0], 0.05),
    (BY_TRYING, 0.0),
)


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per learner, medians over worlds with the worst of them.

    In a world each action of each state leads to a random state, but for slips, and each state has a normal reward. AIRL's theory
    is of worlds without slips: with them no function of states and a potential is the soft advantage of every transition. The
    demonstrator is optimal with an entropy bonus of temperature 1. Learners see states and actions as they are and know the
    dynamics: their discriminators are those of the library, while their policies make exact soft policy iteration steps of damped
    length in place of an on-policy algorithm. The last one is ``mbrl.train(mbrl.AIRL(policy=mbrl.PPO(...)), world, ...)``, which
    knows nothing of the dynamics; its policy, reward and potential are tables, too. "correlation" is Pearson's, over states (and
    actions). "value lost" is that of the policy that is optimal for what was learned, under the true rewards, over what the
    optimal one gains on a random one: in a world of the same states whose actions lead elsewhere, and in the same world. "KL" is
    the divergence of the learner from the demonstrator [nats], the mean over states: all of them imitate.
    """
    import torch

    torch.set_num_threads(1)
    seeds, share = (range(2), 0.2) if quick else (range(10), 1.0)
    rows = []
    for learner, slip in CASES:
        found = [_learned(learner, slip, seed, share) for seed in seeds]
        row: dict[str, Any] = {"learner": learner, "slips": slip, "worlds": len(found)}
        for name, worst in (
            ("correlation", min),
            ("value lost, changed", max),
            ("value lost, same", max),
            ("KL", max),
        ):
            values = [one[name] for one in found]
            row |= {name: statistics.median(values), f"{name}, worst": worst(values)}
        if (learner, slip) == CASES[0]:
            row["aim"] = "0.95 and 0.05"
        rows.append(row | {"seconds": statistics.median(one["seconds"] for one in found)})
    return rows


def _world(seed: int, slip: float) -> tuple["TabularMDP", "TabularMDP"]:
    """A world, and one of the same rewards whose actions lead elsewhere."""
    import torch

    from planners import TabularMDP

    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(STATES, generator=generator, dtype=torch.float64)
    leads = torch.randint(STATES, (2, STATES, ACTIONS), generator=generator)
    transitions = (1 - slip) * torch.nn.functional.one_hot(leads, STATES).double() + slip / STATES
    first, second = (TabularMDP(P, rewards, discount=DISCOUNT) for P in transitions)
    return first, second


def _learned(learner: str, slip: float, seed: int, share: float) -> dict[str, float]:
    import torch

    import mbrl
    from planners import sample_trajectories, solve_mdp

    mdp, changed = _world(seed, slip)
    expert = solve_mdp(mdp, temperature=1.0).policy
    generator = torch.Generator().manual_seed(seed)
    episodes = sample_trajectories(mdp, expert, EPISODES, steps=STEPS, generator=generator)
    start = time.perf_counter()
    if learner == BY_TRYING:
        reward, policy = _by_trying(mdp, episodes, round(share * PPO_STEPS), seed)
    else:
        reward, policy = _adversarial(learner, mdp, episodes, round(share * ITERATIONS), generator)
    seconds = time.perf_counter() - start
    lost = {
        f"value lost, {name}": mbrl.expected_value_difference(world, solve_mdp(world, reward).policy, relative=True)
        for name, world in (("changed", changed), ("same", mdp))
    }
    true = mdp.expected_rewards()
    divergence = float((expert * (expert / policy).log()).sum(-1).mean())
    return {"correlation": mbrl.reward_correlation(reward, true), **lost, "KL": divergence, "seconds": seconds}


def _adversarial(
    learner: str, mdp: "TabularMDP", episodes: Any, iterations: int, generator: Any
) -> tuple["Tensor", "Tensor"]:
    """The learned reward and the learner's policy, ``(S, A)`` each."""
    import torch

    import mbrl
    from mbrl.irl.discriminator import Discriminator, Rows
    from mbrl.policies.action_space import DiscreteActions
    from mbrl.training.processes import Processes
    from planners import occupancies, policy_evaluation

    shape = STATES, ACTIONS, STATES
    shaped, compares = learner == LEARNERS[0], learner != "GAIL"
    actions = DiscreteActions(torch.arange(ACTIONS, dtype=torch.float64)[:, None])
    seen = STATES if shaped else STATES * ACTIONS  # one-hot, so that linear is a table; of pairs, if actions count
    network = mbrl.RewardNetwork(seen, actions, inputs="state", hidden=(), normalize=False, dtype="float64")
    model = mbrl.ShapedReward(network, discount=mdp.discount, hidden=()) if shaped else network
    settings = mbrl.DiscriminatorSettings(learning_rate=0.02, gradient_penalty=0.0, dtype="float64")
    telling = Discriminator(settings, model, generator, Processes())
    s, a, after = (index.flatten() for index in torch.meshgrid(*map(torch.arange, shape), indexing="ij"))
    one_hot = torch.eye(seen, dtype=torch.float64)
    table = model.encode(one_hot[s if shaped else s * ACTIONS + a], next_observations=one_hot[after])
    pairs = episodes.states[:, :-1] * ACTIONS + episodes.actions
    demonstrated = (pairs * STATES + episodes.states[:, 1:]).flatten()  # numbers of rows of the table
    policy = torch.full((STATES, ACTIONS), 1.0 / ACTIONS, dtype=torch.float64)
    for k in range(iterations):
        for group in telling.optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - k / iterations)
        visits = (occupancies(mdp, policy)[..., None] * mdp.transitions).flatten()
        log_probs = (policy.log() if compares else torch.zeros_like(policy))[..., None].expand(shape).flatten()
        for _ in range(10):
            which = torch.randint(len(demonstrated), (1000,), generator=generator)
            batches = demonstrated[which], torch.multinomial(visits, 1000, replacement=True, generator=generator)
            telling.descend(*(Rows(table[rows], log_probs[rows]) for rows in batches))
        with torch.no_grad():
            paid = (model.of_rows(table).reshape(shape) * mdp.transitions).sum(-1)
            Q = policy_evaluation(mdp, policy, paid, temperature=1.0).action_values
            policy = ((1 - STEP) * policy.log() + STEP * Q).softmax(-1)
    with torch.no_grad():
        learned = network.of_rows(table).reshape(shape)
    return (learned * mdp.transitions).sum(-1), policy


def _by_trying(mdp: "TabularMDP", episodes: Any, steps: int, seed: int) -> tuple["Tensor", "Tensor"]:
    """The same, with PPO in the environment of the world."""
    import torch

    import mbrl
    from dynamics import Trajectory

    one_hot = torch.eye(STATES, dtype=torch.float64)
    shown = [
        Trajectory(one_hot[s].numpy(), a[:, None].double().numpy(), dt=1.0, truncated=True)
        for s, a in zip(episodes.states, episodes.actions, strict=True)
    ]
    ppo = mbrl.PPO(
        discount=mdp.discount,
        num_envs=64,
        steps_per_iteration=2560,
        epochs=5,
        minibatch_size=512,
        learning_rate=0.02,
        network=mbrl.NetworkSettings(hidden=(), normalize=False),
    )
    telling = mbrl.DiscriminatorSettings(
        hidden=(),
        normalize=False,
        updates=10,
        batch_size=1000,
        learning_rate=0.02,
        gradient_penalty=0.0,
        dtype="float64",
    )
    algorithm = mbrl.AIRL(policy=ppo, discriminator=telling)
    result = mbrl.train(
        algorithm, mdp, demonstrations=shown, steps=steps, seed=seed, progress=False, evaluation_episodes=0
    )
    with torch.no_grad():
        learned = result.reward.of_rows(result.reward.encode(one_hot))
        policy = result.policy.distribution(one_hot.float()).logits.softmax(-1).double()
    return learned[:, None].expand(STATES, ACTIONS), policy
