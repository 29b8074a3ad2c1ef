"""Trajectories from a task, all episodes as one batch."""

import numpy as np
import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.envs.action_spaces import space_actions
from mbrl.envs.recording import NumberedActions
from mbrl.envs.tabular import TabularStepper
from mbrl.policies.actor import Actor, require_actor
from mbrl.policies.learned_actor import LearnedActor
from mbrl.tasks.base import Task
from mbrl.tasks.worlds import TabularWorld, episode_steps, world_name


@torch.no_grad()
def record(
    task: Task | TabularWorld,
    actor: Actor,
    episodes: int,
    *,
    generator: torch.Generator | None = None,
    initial_states: Tensor | None = None,
    steps: int | None = None,
    deterministic: bool = True,
    progress: bool | None = False,
) -> list[Trajectory]:
    """Run an actor on a task, all episodes as one batch.

    Args:
        task: the plant, its rewards and its initial distribution; or a world or process in tables, which shows one-hot vectors.
        actor: anything that acts; one that needs the state gets it. In tables its controls are numbers of actions.
        episodes: number of episodes.
        generator: source of initial states and of the actor's randomness; seeded with 0 by default.
        initial_states: ``(episodes, n)`` instead of draws from the task.
        steps: length of an episode, at least 1; the task's by default.
        deterministic: passed on to the actor.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        One trajectory per episode with observations, states, applied controls (the nearest admissible ones) and rewards. An
        episode ends with ``terminated`` where the task terminates, ``truncated`` after all steps, and with neither, its last
        finite state kept, where the simulation diverged.

    Raises:
        ValueError: episodes or steps < 1, a shape does not fit, a policy does not fit the task, the actor gave a control that
            is not finite, or it plans in real time, which a recording does not keep to.
        TypeError: actor is nothing that acts.
    """
    require_actor(actor, task if isinstance(task, Task) else None)
    if getattr(actor, "real_time", False):
        raise ValueError(
            f"{type(actor).__name__} plans in real time, and this simulation does not keep to it: give it latency=... [s] to "
            "simulate its planning too, or run it on a SimulatedPlant in run_control_loop"
        )
    if steps is None:
        steps = task.episode_steps if isinstance(task, Task) else episode_steps(task)
    if episodes < 1 or steps < 1:
        raise ValueError(f"episodes and steps must be at least 1, got {episodes} and {steps}")
    generator = generator or torch.Generator().manual_seed(0)
    if isinstance(task, TabularWorld):
        return _in_tables(task, actor, episodes, generator, initial_states, steps, deterministic, progress)
    x = task.initial_state(episodes, generator) if initial_states is None else torch.as_tensor(initial_states)
    if x.shape != (episodes, task.dynamics.state_dim):
        raise ValueError(
            f"initial_states must have shape ({episodes}, {task.dynamics.state_dim}), got {tuple(x.shape)}"
        )
    xs, us, rewards = _simulate(task, actor, x, generator, steps, deterministic, progress)
    return [_episode(task, xs[i], us[i], rewards[i], i) for i in range(episodes)]


def _simulate(
    task: Task,
    actor: Actor,
    x: Tensor,
    generator: torch.Generator,
    steps: int,
    deterministic: bool,
    progress: bool | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Xs ``(episodes, T+1, n)``, us ``(episodes, T, m)`` and rewards ``(episodes, T)``, until the last episode has ended.

    An episode that has ended goes on while others run; what happens then is cut off later.
    """
    from dynamics.progress import progress_bar

    memory = actor.init(len(x), generator=generator)
    running = x.isfinite().all(-1)
    xs, us, rewards = [x], [], []
    with progress_bar(f"{task.name} x {len(x)}", steps, show=progress) as advance:
        for t in range(steps):
            u, memory = actor.act(
                x if actor.acts_on == "state" else task.observe(x), memory, deterministic=deterministic
            )
            if u.shape != (len(x), task.dynamics.control_dim):
                raise ValueError(
                    f"{type(actor).__name__} must give controls of shape ({len(x)}, {task.dynamics.control_dim}), got "
                    f"{tuple(u.shape)}"
                )
            if not bool(u[running].isfinite().all()):
                raise ValueError(f"{type(actor).__name__} gave a control that is not finite at step {t} of {task.name}")
            u = task.admissible(u.to(x).nan_to_num())
            x_next = task.dynamics(x, u, t)
            rewards.append(task.reward(x, u, x_next, t))
            us.append(u)
            xs.append(x_next)
            x = x_next
            advance(t + 1)
            running = running & x.isfinite().all(-1)
            if task.termination is not None:
                running = running & ~task.termination(x)
            if not bool(running.any()):
                break
    return torch.stack(xs, dim=1), torch.stack(us, dim=1), torch.stack(rewards, dim=1)


def _episode(task: Task, xs: Tensor, us: Tensor, rewards: Tensor, index: int) -> Trajectory:
    """The part of one simulation up to termination or divergence."""
    steps, terminated = len(us), False
    finite = xs.isfinite().all(-1)
    diverged = not bool(finite.all())
    if diverged:
        steps = max(int((~finite).nonzero()[0]) - 1, 0)
    if task.termination is not None:
        ended = task.termination(xs[1 : steps + 1]).nonzero()
        if len(ended):
            steps, terminated, diverged = int(ended[0]) + 1, True, False
    states = xs[: steps + 1]
    return Trajectory(
        task.observe(states).numpy(),
        us[:steps].numpy(),
        states=states.numpy(),
        rewards=rewards[:steps].numpy(),
        dt=task.dynamics.dt,
        terminated=terminated,
        truncated=not terminated and not diverged,
        source=f"{task.name} episode {index}" + (", diverged" if diverged else ""),
        names=task.names,
        units=task.units,
    )


def _in_tables(
    world: TabularWorld,
    actor: Actor,
    episodes: int,
    generator: torch.Generator,
    initial_states: Tensor | None,
    steps: int,
    deterministic: bool,
    progress: bool | None,
) -> list[Trajectory]:
    """Episodes of a world in tables; states are their numbers."""
    from dynamics.progress import progress_bar

    stepper, name = TabularStepper(world, steps), world_name(world)
    if isinstance(actor, LearnedActor) and actor.acts_on == "observation":
        actor.check_fits(stepper.states, space_actions(stepper.action_space), task=name)

    def uniform() -> np.ndarray:
        return torch.rand(episodes, generator=generator, dtype=torch.float64).numpy()

    if initial_states is None:
        states = [stepper.first(uniform())]
    elif torch.as_tensor(initial_states).shape == (episodes, 1):
        states = [stepper.given(torch.as_tensor(initial_states).numpy())]
    else:
        raise ValueError(
            f"initial_states must be numbers of states ({episodes}, 1), got {tuple(torch.as_tensor(initial_states).shape)}"
        )
    memory, numbered = actor.init(episodes, generator=generator), NumberedActions(stepper.action_space)
    actions, rewards = [], []
    with progress_bar(f"{name} x {episodes}", steps, show=progress) as advance:
        for t in range(steps):
            shown = states[-1][:, None] if actor.acts_on == "state" else stepper.observe(states[-1])
            u, memory = actor.act(torch.from_numpy(shown.astype(np.float64)), memory, deterministic=deterministic)
            try:
                actions.append(numbered.nearest(u.detach().cpu().double().numpy()))
            except ValueError as error:
                raise ValueError(
                    f"{type(actor).__name__} gave a control that is no action of {name}: {error}"
                ) from error
            after, reward = stepper.step(states[-1], actions[-1], uniform())
            states.append(after)
            rewards.append(reward)
            advance(t + 1)
    xs, us, rs = np.stack(states, 1), np.stack(actions, 1), np.stack(rewards, 1)
    return [
        Trajectory(
            stepper.observe(x).astype(np.float64),
            u[:, None].astype(np.float64),
            states=x[:, None].astype(np.float64),
            rewards=r,
            dt=1.0,
            truncated=True,
            source=f"{name} episode {i}",
            names={"states": ("state",), "controls": ("action",)},
        )
        for i, (x, u, r) in enumerate(zip(xs, us, rs, strict=True))
    ]
