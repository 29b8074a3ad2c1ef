"""PPO of stable-baselines3 and TRPO of sb3-contrib, set up as their makers advise, one training per request.

Requests:

- ``{"what": "train", "algorithm": "ppo" | "trpo", "settings": "tuned" | "generic", "env": id, "steps": n, "seed": s,
  "episodes": e}``; answer: returns of ``e`` deterministic evaluation episodes (normalization frozen, rewards as they are),
  the seconds of learning alone, and the learning curve: environment steps, mean return of the last 100 training episodes.
- ``{"what": "throughput", "steps": n, "num_envs": k, "vectorization": "dummy" | "subproc", "env": id, "seed": s,
  "n_steps": per environment, "batch_size": b, "n_epochs": e, "threads": t}``; answer: the seconds of PPO's ``learn``, and
  the shares of stepping environments (normalization included), of policy and value while collecting, of the update.

Both normalize observations and rewards with VecNormalize where the settings say so. One torch thread unless a request says
otherwise.
"""

import json
import os
import sys
import time
from contextlib import contextmanager

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from mujoco import set_mju_user_warning
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule, safe_mean
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from torch import nn

# RL Baselines3 Zoo, hyperparams/ppo.yml and trpo.yml. Its MuJoCo settings are for the v3 and v4 environments and for a
# million steps. "normalize" is VecNormalize with the algorithm's discount.
WIDE = {
    "log_std_init": -2.0,
    "ortho_init": False,
    "activation_fn": nn.ReLU,
    "net_arch": {"pi": [256] * 2, "vf": [256] * 2},
}
MUJOCO_PPO = {"normalize": True, "n_envs": 1, "n_steps": 512}
MUJOCO_TRPO = {
    "normalize": True, "n_envs": 2, "n_steps": 1024, "batch_size": 128, "gamma": 0.99, "gae_lambda": 0.95,
    "cg_max_steps": 25, "cg_damping": 0.1, "n_critic_updates": 20, "learning_rate": 1e-3,
}  # fmt: skip
TUNED = {
    ("ppo", "CartPole-v1"): {
        "n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
        "learning_rate": LinearSchedule(1e-3, 0.0, 1.0), "clip_range": LinearSchedule(0.2, 0.0, 1.0),
    },
    ("ppo", "Pendulum-v1"): {
        "n_envs": 4, "n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "learning_rate": 1e-3,
        "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4,
    },
    ("ppo", "HalfCheetah-v5"): {
        **MUJOCO_PPO, "batch_size": 64, "gamma": 0.98, "learning_rate": 2.0633e-05, "ent_coef": 0.000401762,
        "clip_range": 0.1, "n_epochs": 20, "gae_lambda": 0.92, "max_grad_norm": 0.8, "vf_coef": 0.58096,
        "policy_kwargs": WIDE,
    },
    ("ppo", "Hopper-v5"): {
        **MUJOCO_PPO, "batch_size": 32, "gamma": 0.999, "learning_rate": 9.80828e-05, "ent_coef": 0.00229519,
        "clip_range": 0.2, "n_epochs": 5, "gae_lambda": 0.99, "max_grad_norm": 0.7, "vf_coef": 0.835671,
        "policy_kwargs": WIDE,
    },
    ("ppo", "Walker2d-v5"): {
        **MUJOCO_PPO, "batch_size": 32, "gamma": 0.99, "learning_rate": 5.05041e-05, "ent_coef": 0.000585045,
        "clip_range": 0.1, "n_epochs": 20, "gae_lambda": 0.95, "max_grad_norm": 1.0, "vf_coef": 0.871923,
    },
    ("trpo", "CartPole-v1"): {
        "n_envs": 2, "n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "gamma": 0.99,
        "learning_rate": 1e-3, "n_critic_updates": 20,
    },
    ("trpo", "Pendulum-v1"): {
        "n_envs": 2, "n_steps": 1024, "gamma": 0.9, "n_critic_updates": 15, "use_sde": True, "sde_sample_freq": 4,
    },
    ("trpo", "HalfCheetah-v5"): {**MUJOCO_TRPO, "target_kl": 0.04},
    ("trpo", "Hopper-v5"): MUJOCO_TRPO,
    ("trpo", "Walker2d-v5"): MUJOCO_TRPO,
}  # fmt: skip
# the libraries' defaults with VecNormalize, whose 2048 transitions an iteration come from 8 or 2 environments
GENERIC = {
    "ppo": {"normalize": True, "n_envs": 8, "n_steps": 256},
    "trpo": {"normalize": True, "n_envs": 2, "n_steps": 1024},
}
ALGORITHMS = {"ppo": PPO, "trpo": TRPO}


def learner(algorithm, env_id, seed, settings, vectorization="dummy"):
    """An algorithm that has not learned yet."""
    settings = dict(settings)
    normalize, num_envs = settings.pop("normalize", False), settings.pop("n_envs")
    vec_env_cls = SubprocVecEnv if vectorization == "subproc" else None  # None is DummyVecEnv
    env = make_vec_env(env_id, num_envs, seed=seed, vec_env_cls=vec_env_cls)
    if normalize:
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
    return ALGORITHMS[algorithm]("MlpPolicy", env, seed=seed, device="cpu", **settings)


class Curve(BaseCallback):
    """Mean return of the last 100 training episodes after each rollout."""

    def __init__(self):
        super().__init__()
        self.points = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        episodes = self.model.ep_info_buffer
        if episodes:
            self.points.append((self.num_timesteps, float(safe_mean([episode["r"] for episode in episodes]))))


def train(request):
    """Learn, then evaluate."""
    algorithm, env_id, seed = request["algorithm"], request["env"], request["seed"]
    tuned = request.get("settings", "tuned") == "tuned"
    model = learner(algorithm, env_id, seed, TUNED[algorithm, env_id] if tuned else GENERIC[algorithm])
    curve = Curve()
    start = time.perf_counter()
    model.learn(request["steps"], callback=curve)
    seconds = time.perf_counter() - start
    env = make_vec_env(env_id, min(10, request["episodes"]), seed=10_000 + seed)
    if isinstance(model.env, VecNormalize):
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = model.env.obs_rms
    returns, _ = evaluate_policy(model, env, request["episodes"], deterministic=True, return_episode_rewards=True)
    env.close()
    model.env.close()
    return {
        "returns": [float(value) for value in returns],
        "seconds": seconds,
        "steps": model.num_timesteps,
        "learning_curve": curve.points,
    }


class Shares:
    """Seconds spent in methods that are watched."""

    def __init__(self):
        self.seconds = {}

    @contextmanager
    def watch(self, owner, method, name):
        """Count the seconds of calls of a method while the context is open."""
        original = getattr(owner, method)
        self.seconds.setdefault(name, 0.0)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        setattr(owner, method, timed)
        try:
            yield
        finally:
            delattr(owner, method)


def throughput(request):
    """PPO end to end: collecting and updating, without making the environments."""
    settings = {"normalize": True, "n_envs": request["num_envs"]}
    settings |= {name: request[name] for name in ("n_steps", "batch_size", "n_epochs") if name in request}
    vectorization = request.get("vectorization", "dummy")
    model = learner("ppo", request.get("env", "HalfCheetah-v5"), request.get("seed", 0), settings, vectorization)
    shares = Shares()
    with (
        shares.watch(model.env, "step", "environment"),
        shares.watch(model, "collect_rollouts", "collecting"),
        shares.watch(model, "train", "update"),
    ):
        start = time.perf_counter()
        model.learn(request["steps"])
        seconds = time.perf_counter() - start
    model.env.close()
    part = shares.seconds
    part["inference"] = (
        part.pop("collecting") - part["environment"]
    )  # with filling the buffer and estimating advantages
    part["other"] = seconds - sum(part.values())
    return {
        "seconds": seconds,
        "steps": model.num_timesteps,
        "shares": {name: value / seconds for name, value in part.items()},
    }


def main():
    """Answer the requests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    set_mju_user_warning(lambda message: None)  # of gymnasium's model files, which are older than MuJoCo 4
    for line in sys.stdin:
        request = json.loads(line)
        torch.set_num_threads(request.get("threads", 1))
        answer = {"train": train, "throughput": throughput}[request["what"]](request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
