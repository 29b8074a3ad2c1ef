"""BC, GAIL and AIRL of the package imitation, one training per request, and a check that its worlds are ours.

Requests have the fields of a case of ``benchmarks/irl_table.py`` and

- ``{"what": "check"}``; answer: the largest difference of a reward or next observation from those of a demonstration, each step
  from the state that was observed before it;
- ``{"what": "train", "contestant": "bc" | "gail" | "airl", "demonstrations": n, "seed": s}``; answer: returns of deterministic
  evaluation episodes, environment steps, and the seconds of learning.

PPO is stable-baselines3's with the settings of the request and 2048 steps in 8 worlds; of imitation's own settings those that are
not its defaults are from its documentation's examples.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gymnasium
import numpy as np
import torch

HERE = Path(__file__).resolve().parent.parent
PATIENCE = 7200  # [s]


def made(request):
    """The environment of a request."""
    return gymnasium.make(request["peer_env"], max_episode_steps=request["episode_steps"])


def read(request):
    """Demonstrations, once the expert has left them: observations, controls, rewards."""
    path, end = HERE / request["shared"] / "demonstrations.npz", time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            raise FileNotFoundError(f"no demonstrations at {path}; remove the expert's cell and run it again")
        time.sleep(1.0)
    with np.load(path) as file:
        return file["observations"], file["controls"], file["rewards"]


def check(request):
    """Each step of the first demonstration from the state that was observed before it: errors of rounding do not grow."""
    observations, controls, rewards = read(request)
    env = made(request)
    env.reset(seed=0)
    plain, worst, y = env.unwrapped, 0.0, observations[0]
    for t, u in enumerate(controls[0]):
        place(plain, y[t])
        after, reward, *_ = plain.step(u.astype(env.action_space.dtype))
        worst = max(worst, abs(float(reward) - float(rewards[0][t])), float(np.abs(after - y[t + 1]).max()))
    env.close()
    return {"difference": worst, "what": "largest of rewards and observations, step by step"}


def place(plain, y):
    """Set the state that an observation shows; where it is along the track is not seen, and makes no difference."""
    if hasattr(plain, "set_state"):
        nq = plain.model.nq
        plain.set_state(np.concatenate([[0.0], y[: nq - 1]]), y[nq - 1 :])
    else:
        plain.state = np.array([np.arctan2(y[1], y[0]), y[2]], dtype=np.float64)


def train(request):
    """A training."""
    from imitation.algorithms import bc
    from imitation.algorithms.adversarial.airl import AIRL
    from imitation.algorithms.adversarial.gail import GAIL
    from imitation.data import rollout
    from imitation.data.types import Trajectory
    from imitation.policies.base import NormalizeFeaturesExtractor
    from imitation.rewards.reward_nets import BasicRewardNet, BasicShapedRewardNet
    from imitation.util.networks import RunningNorm
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv

    seed, contestant, settings = request["seed"], request["contestant"], request["settings"]
    observations, controls, _ = read(request)
    number = request["demonstrations"]
    dtype = made(request).observation_space.dtype
    demonstrations = [
        Trajectory(obs=y.astype(dtype), acts=u.astype(np.float32), infos=None, terminal=True)
        for y, u in zip(observations[:number], controls[:number], strict=True)
    ]
    transitions = rollout.flatten_trajectories(demonstrations)
    venv = DummyVecEnv([lambda: made(request)] * 8)
    venv.seed(seed)
    torch.manual_seed(seed)
    start = time.perf_counter()
    if contestant == "bc":
        trainer = bc.BC(
            observation_space=venv.observation_space,
            action_space=venv.action_space,
            demonstrations=transitions,
            rng=np.random.default_rng(seed),
        )
        trainer.train(n_batches=3000, progress_bar=False)
        policy, steps = trainer.policy, 0
    else:
        learner = PPO(
            "MlpPolicy", venv, n_steps=256, batch_size=64, seed=seed, gamma=settings["discount"],
            learning_rate=settings["learning_rate"], gae_lambda=settings["trace_decay"],
            policy_kwargs={
                "features_extractor_class": NormalizeFeaturesExtractor,
                "features_extractor_kwargs": {"normalize_class": RunningNorm},
            },
        )  # fmt: skip
        kind, net = (GAIL, BasicRewardNet) if contestant == "gail" else (AIRL, BasicShapedRewardNet)
        shaped = {"discount_factor": settings["discount"]} if contestant == "airl" else {}
        trainer = kind(
            demonstrations=transitions, demo_batch_size=min(1024, len(transitions)), gen_replay_buffer_capacity=2048,
            n_disc_updates_per_round=8, venv=venv, gen_algo=learner,
            reward_net=net(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm, **shaped),
        )  # fmt: skip
        trainer.train(request["steps"])
        policy, steps = learner, learner.num_timesteps
    seconds = time.perf_counter() - start
    evaluation = DummyVecEnv([lambda: made(request)] * min(10, request["episodes"]))
    evaluation.seed(10_000 + seed)
    returns, _ = evaluate_policy(
        policy, evaluation, request["episodes"], deterministic=True, return_episode_rewards=True, warn=False
    )
    evaluation.close()
    venv.close()
    return {"returns": [float(value) for value in returns], "steps": steps, "seconds": seconds}


def main():
    """Answer the requests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"train": train, "check": check}[request["what"]](request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
