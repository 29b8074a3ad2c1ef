"""The plant of a task on the backend that is asked for."""

from collections.abc import Callable

from dynamics import Dynamics, MujocoDynamics


def on_backend(system: Dynamics, mjcf: Callable[[], str], backend: str, *, frame_skip: int = 1) -> Dynamics:
    """The plant of a task: the torch system itself, or its MuJoCo twin.

    Raises:
        ValueError: the backend is unknown.
    """
    if backend == "torch":
        return system
    if backend == "mujoco":
        return MujocoDynamics(mjcf(), frame_skip=frame_skip)
    raise ValueError(f"backend must be 'mujoco' or 'torch', got {backend!r}")
