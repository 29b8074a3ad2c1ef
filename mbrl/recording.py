"""Trajectories from a task, all episodes as one batch."""

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.policies.actor import Actor, require_actor
from mbrl.tasks.base import Task


@torch.no_grad()
def record(
    task: Task,
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
        task: the plant, its rewards and its initial distribution.
        actor: anything that acts; one that needs the state gets it.
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
    require_actor(actor, task)
    if getattr(actor, "real_time", False):
        raise ValueError(
            f"{type(actor).__name__} plans in real time, and this simulation does not keep to it: give it latency=... [s] to "
            "simulate its planning too, or run it on a SimulatedPlant in run_control_loop"
        )
    steps = task.episode_steps if steps is None else steps
    if episodes < 1 or steps < 1:
        raise ValueError(f"episodes and steps must be at least 1, got {episodes} and {steps}")
    generator = generator or torch.Generator().manual_seed(0)
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
