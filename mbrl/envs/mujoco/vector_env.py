"""gymnasium's MuJoCo environments, many at once."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import copy
import math
import operator
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from dynamics.mujoco.loading import compile_model
from mbrl.envs.episodes import EpisodesVectorEnv, Info, Transition, Worlds, checked_worlds
from mbrl.envs.mujoco.ant import Ant
from mbrl.envs.mujoco.half_cheetah import HalfCheetah
from mbrl.envs.mujoco.hopper import Hopper, Walker2d
from mbrl.envs.mujoco.humanoid import Humanoid, HumanoidStandup
from mbrl.envs.mujoco.inverted_pendulum import InvertedDoublePendulum, InvertedPendulum
from mbrl.envs.mujoco.pusher import Pusher
from mbrl.envs.mujoco.reacher import Reacher
from mbrl.envs.mujoco.rules import Rules
from mbrl.envs.mujoco.swimmer import Swimmer
from mbrl.envs.mujoco.worlds import WarmWorlds

if TYPE_CHECKING:
    import mujoco

RULES: dict[str, type[Rules]] = {
    "Ant-v5": Ant,
    "HalfCheetah-v5": HalfCheetah,
    "Hopper-v5": Hopper,
    "Humanoid-v5": Humanoid,
    "HumanoidStandup-v5": HumanoidStandup,
    "InvertedDoublePendulum-v5": InvertedDoublePendulum,
    "InvertedPendulum-v5": InvertedPendulum,
    "Pusher-v5": Pusher,
    "Reacher-v5": Reacher,
    "Swimmer-v5": Swimmer,
    "Walker2d-v5": Walker2d,
}
ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
DRAWING = {
    "camera_id",
    "camera_name",
    "default_camera_config",
    "height",
    "max_geom",
    "render_mode",
    "visual_options",
    "width",
}


class MujocoVectorEnv(EpisodesVectorEnv):
    """One of gymnasium's MuJoCo environments in many worlds, stepped on threads; see :func:`make_mujoco_vec_env`.

    Attributes:
        rules: what is observed, rewarded and terminated, with the options.
        model: the MuJoCo model; read only.
        frame_skip: MuJoCo steps per step.
        max_episode_steps: steps after which an episode is truncated, None for no limit.
        spec: with which ``gymnasium.make`` makes one world of it.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self,
        env_id: str,
        rules: Rules,
        num_envs: int,
        *,
        threads: int,
        autoreset_mode: AutoresetMode | str,
        max_episode_steps: int | None,
    ):
        self.rules = rules
        self._env_id = env_id
        self.frame_skip = rules.frame_skip
        self.max_episode_steps = max_episode_steps
        self._last_step = math.inf if max_episode_steps is None else max_episode_steps
        self.model = _load(rules.xml_file)
        number = checked_worlds(num_envs)
        worlds = WarmWorlds(self.model, number, threads, rules.outputs, contact_forces=rules.contact_forces)
        rules.position(worlds.data)  # a name that the model lacks is an error now
        observed = rules.observe(worlds.data).shape[1:]
        lower, upper = self.model.actuator_ctrlrange.astype(np.float32).T
        super().__init__(
            number,
            gymnasium.spaces.Box(-np.inf, np.inf, observed, np.float64),
            gymnasium.spaces.Box(lower, upper, dtype=np.float32),
            autoreset_mode,
        )
        self.spec = copy.deepcopy(gymnasium.spec(env_id))
        self.spec.kwargs = {field.name: getattr(rules, field.name) for field in fields(rules)}
        self.spec.max_episode_steps = max_episode_steps
        self._worlds: WarmWorlds | None = worlds

    @property
    def dt(self) -> float:
        """Duration of a step [s]."""
        return self.model.opt.timestep * self.frame_skip

    @property
    def state_dim(self) -> int:
        """Number of positions, velocities and activations of one world."""
        return self.model.nq + self.model.nv + self.model.na

    @property
    def _of(self) -> str:
        return self._env_id

    def _saved(self) -> dict[str, np.ndarray]:
        return self._warm.saved()

    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._warm.restore(arrays)

    def _begin(self, worlds: Worlds, states: np.ndarray | None) -> tuple[np.ndarray, Info]:
        if states is None:
            drawn = [self.rules.initial_state(self._source(i), self.model) for i in self._numbers[worlds].tolist()]
            states = np.stack([np.concatenate([*parts, np.zeros(self.model.na)]) for parts in drawn])
        self._warm.begin(worlds, states)
        data = self._warm.rows(worlds)
        return self.rules.observe(data), {**self.rules.reset_info(data), "state": data.state, "diverged": data.diverged}

    def _advance(self, worlds: Worlds, actions: Any) -> Transition:
        controls = self._controls(actions, worlds)
        before = np.array(self.rules.position(self._warm.rows(worlds)))
        self._warm.step(worlds, controls, self.frame_skip)
        data = self._warm.rows(worlds)
        velocity = (self.rules.position(data) - before) / self.dt
        reward, terminated, info = self.rules.outcome(data, controls, velocity)
        return Transition(
            self.rules.observe(data),
            reward,
            terminated,
            self._elapsed[worlds] + 1 >= self._last_step,
            {**info, "state": data.state, "diverged": data.diverged},
        )

    def _controls(self, actions: Any, worlds: Worlds) -> np.ndarray:
        """The actions of some worlds; those of others may be anything."""
        given = np.asarray(actions)
        shape = self.num_envs, self.model.nu
        if given.shape != shape or not np.isfinite(chosen := given[worlds]).all():
            raise ValueError(f"an action is {shape[1]} finite numbers for each of {shape[0]} worlds, got {actions!r}")
        return chosen

    @property
    def _warm(self) -> WarmWorlds:
        if self._worlds is None:
            raise gymnasium.error.ClosedEnvironmentError(f"{self!r} is closed; make a new one")
        return self._worlds

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the simulations and their threads."""
        self._worlds = None


def make_mujoco_vec_env(
    env_id: str,
    num_envs: int,
    *,
    threads: int | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    **options: Any,
) -> MujocoVectorEnv:
    """One of gymnasium's MuJoCo v5 environments as a native vector environment, stepped on threads.

    World i seeded with s gives what ``gymnasium.make(env_id, **options)`` seeded with s gives: the same observations, rewards,
    ends and infos, episode after episode. ``info`` also has ``"state"``, ``(qpos, qvel, act)`` of each world, to plan from, and
    ``"diverged"``: the worlds that were unstable and that MuJoCo set back to the model's default state in this step, as it does
    in gymnasium's environments, whose episode goes on. ``reset(options={"state": x})`` begins at given states.

    Steps are warm: MuJoCo's constraint solver begins where it ended, which is hidden state. ``MujocoDynamics(env)`` is a model
    of it to plan on and starts cold in each step, so the two differ by the solver's tolerance.

    Args:
        env_id: ``"HalfCheetah-v5"``, ``"Hopper-v5"``, ``"Walker2d-v5"``, ``"Ant-v5"``, ``"Swimmer-v5"``, ``"Reacher-v5"``,
            ``"InvertedPendulum-v5"``, ``"InvertedDoublePendulum-v5"``, ``"Pusher-v5"``, ``"Humanoid-v5"`` or
            ``"HumanoidStandup-v5"``.
        num_envs: number of worlds.
        threads: number of threads; one per core by default.
        autoreset_mode: when a world whose episode has ended begins the next one.
        max_episode_steps: steps after which an episode is truncated; gymnasium's number for the id by default, -1 for no limit.
        **options: of gymnasium's environment, with its names and defaults, such as ``ctrl_cost_weight``; not those of drawing.

    Raises:
        ValueError: there is no such id or option, or a value does not fit.
        TypeError: an option is of another type.
        FileNotFoundError: there is no such ``xml_file``.

    Example:
        >>> import mbrl
        >>> envs = mbrl.make_mujoco_vec_env("HalfCheetah-v5", 8)
        >>> observations, info = envs.reset(seed=0)
        >>> observations.shape
        (8, 17)
    """
    if env_id not in RULES:
        raise ValueError(f"no vector environment for {env_id!r}; there are {', '.join(RULES)}")
    if threads is not None and operator.index(threads) < 1:
        raise ValueError(f"threads must be at least 1, or None for one per core, got {threads}")
    if max_episode_steps is None:
        max_episode_steps = gymnasium.spec(env_id).max_episode_steps
    elif operator.index(max_episode_steps) < 1 and max_episode_steps != -1:
        raise ValueError(f"max_episode_steps must be at least 1, or -1 for no limit, got {max_episode_steps}")
    return MujocoVectorEnv(
        env_id,
        _rules(env_id, options),
        num_envs,
        threads=threads or len(os.sched_getaffinity(0)),
        autoreset_mode=autoreset_mode,
        max_episode_steps=None if max_episode_steps == -1 else max_episode_steps,
    )


def _rules(env_id: str, options: dict[str, Any]) -> Rules:
    kind = RULES[env_id]
    defaults = {field.name: field.default for field in fields(kind)}
    drawing, unknown = sorted(DRAWING & set(options)), sorted(set(options) - set(defaults))
    if drawing:
        raise ValueError(
            f"{', '.join(drawing)}: the vector environment does not draw; draw the states of info['state'] with "
            "mbrl.plots.render_mujoco(env.model, states, dt=env.dt)"
        )
    if unknown:
        raise ValueError(f"{env_id} has no option {', '.join(unknown)}; it has {', '.join(defaults)}")
    for name, annotation in get_type_hints(kind).items():
        if name in options:
            _check_option(name, options[name], annotation)
    rules = kind(**options)
    if rules.frame_skip < 1:
        raise ValueError(f"frame_skip must be a positive number of MuJoCo steps, got {rules.frame_skip}")
    return rules


def _check_option(name: str, value: Any, annotation: Any) -> None:
    kinds = {float: Real, int: Integral, bool: (bool, np.bool_), str: (str, Path), int | str: (Integral, str)}
    if annotation not in kinds:
        if np.shape(value) != (2,):
            raise ValueError(f"{name} must be a lower and an upper limit, got {value!r}")
    elif not isinstance(value, kinds[annotation]):
        wanted = getattr(annotation, "__name__", annotation)
        raise TypeError(f"{name} must be of type {wanted}, got {value!r}")


def _load(xml_file: str) -> "mujoco.MjModel":
    """The model of a file that is named as gymnasium names it."""
    if str(xml_file).startswith(("/", ".", "~")):
        return compile_model(Path(xml_file).expanduser())
    with warnings.catch_warnings():  # nobody can change gymnasium's own files
        warnings.filterwarnings("ignore", message="MuJoCo: .* is deprecated")
        return compile_model(ASSETS / xml_file)
