"""From whatever carries a MuJoCo model to a private copy that steps as a pure function, and the names in it."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

import copy
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mujoco


def load_model(source: Any, frame_skip: int | None) -> tuple["mujoco.MjModel", int]:
    """A private copy of the model in ``source`` without automatic resets, and the number of its steps per control.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: ``source`` carries no model.
        ValueError: MuJoCo cannot compile the model, the model has hidden state, or ``frame_skip`` is not positive or
            contradicts the environment's.
    """
    _import_mujoco()
    import mujoco

    if isinstance(source, mujoco.MjModel):
        model, carried = copy.copy(source), None
    elif isinstance(source, str | Path):
        model, carried = compile_model(source), None
    else:
        model, carried = _carried(source)
    if frame_skip is not None and carried is not None and frame_skip != carried:
        raise ValueError(
            f"{type(source).__name__} repeats each control for {carried} steps, got frame_skip={frame_skip}; leave it "
            "out, or pass env.unwrapped.model instead of the environment"
        )
    steps = frame_skip if frame_skip is not None else carried if carried is not None else 1
    if steps != int(steps) or steps < 1:
        raise ValueError(f"frame_skip must be a positive number of MuJoCo steps, got {steps}")
    _check_pure(model)
    # A reset in the middle of a step would make a diverged world look healthy.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model, int(steps)


def _import_mujoco() -> None:
    """Import MuJoCo, also where the graphics library that MUJOCO_GL asks for is missing: stepping needs none."""
    try:
        import mujoco
    except (AttributeError, ImportError):  # what PyOpenGL makes of a missing library
        chosen = os.environ.get("MUJOCO_GL")
        if chosen is None:
            raise
        os.environ["MUJOCO_GL"] = "disable"
        try:
            import mujoco  # noqa: F401 (loaded for good, without its drawing)
        finally:
            os.environ["MUJOCO_GL"] = chosen


def compile_model(source: str | Path) -> "mujoco.MjModel":
    """The model of an MJCF or MJB file or an MJCF string; what MuJoCo warns of while compiling it is a Python warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: MuJoCo cannot compile it.
    """
    _import_mujoco()
    import mujoco

    is_mjcf = isinstance(source, str) and source.lstrip().startswith("<")
    if not is_mjcf and not Path(source).is_file():
        raise FileNotFoundError(
            f"no MuJoCo model at {str(source)!r}; give an MJCF or MJB file, the MJCF itself, or gymnasium.make(id)"
        )
    # MuJoCo's own handler would write to MUJOCO_LOG.TXT in the working directory.
    handler, messages = mujoco.get_mju_user_warning(), []
    mujoco.set_mju_user_warning(messages.append)
    try:
        if is_mjcf:
            return mujoco.MjModel.from_xml_string(source)
        if Path(source).suffix == ".mjb":
            return mujoco.MjModel.from_binary_path(str(source))
        return mujoco.MjModel.from_xml_path(str(source))
    except ValueError as error:
        raise ValueError(
            f"MuJoCo cannot load {'the MJCF string' if is_mjcf else repr(str(source))}: {error}"
        ) from error
    finally:
        mujoco.set_mju_user_warning(handler)
        for message in messages:
            warnings.warn(f"MuJoCo: {message}", stacklevel=4)


def _carried(source: Any) -> tuple["mujoco.MjModel", int | None]:
    """Model and frame skip of an object that has them, such as a gymnasium MuJoCo environment."""
    import mujoco

    owner = getattr(source, "unwrapped", source)
    model = getattr(owner, "model", None)
    if not isinstance(model, mujoco.MjModel):
        raise TypeError(
            "model must be the path of an MJCF file, an MJCF string, a mujoco.MjModel, or an object whose attribute "
            f"'model' is one, such as a gymnasium MuJoCo environment; got {type(source).__name__}"
        )
    return copy.copy(model), getattr(owner, "frame_skip", None)


def _check_pure(model: "mujoco.MjModel") -> None:
    """Raise ValueError if the next state depends on more than (qpos, qvel, act) and ctrl."""
    from mujoco import mj_stateSize, mjtEnableBit, mjtState

    hidden = {
        "actuator or sensor delays (remove 'delay' and 'nsample')": mj_stateSize(model, mjtState.mjSTATE_HISTORY),
        "plastic deformation": mj_stateSize(model, mjtState.mjSTATE_PLASTIC),
        "plugins": model.nplugin,
        "sleep (set the flag sleep='disable')": model.opt.enableflags & mjtEnableBit.mjENBL_SLEEP,
        "IPC contacts (set the flag ipc='disable')": model.opt.enableflags & mjtEnableBit.mjENBL_IPC,
    }
    found = [what for what, present in hidden.items() if present]
    if found:
        raise ValueError(
            "the next state must depend on (qpos, qvel, act) and ctrl alone, but this model keeps more between steps: "
            + ", ".join(found)
        )


def state_names(model: "mujoco.MjModel") -> list[str]:
    """Names of (qpos, qvel, act) from the names of joints and actuators."""
    positions, velocities = [], []
    for j in range(model.njnt):
        joint = model.joint(j)
        axes = _axes(model, j)
        positions += [f"{joint.name or f'joint{j}'}{suffix}" for suffix in axes[0]]
        velocities += [f"{joint.name or f'joint{j}'}{suffix}_velocity" for suffix in axes[1]]
    activations = []
    for i in range(model.nactuator):
        names = _numbered(model.actuator(i).name or f"actuator{i}", int(model.actuator_actnum[i]))
        activations += [f"{name}_activation" for name in names]
    return positions + velocities + activations


def control_names(model: "mujoco.MjModel") -> list[str]:
    """Names of ctrl from the names of the actuators."""
    names = []
    for i in range(model.nactuator):
        names += _numbered(model.actuator(i).name or f"actuator{i}", int(model.actuator_ctrlnum[i]))
    return names


def _axes(model: "mujoco.MjModel", joint: int) -> tuple[list[str], list[str]]:
    """Suffixes of the positions and velocities of a joint."""
    from mujoco import mjtJoint

    if model.jnt_type[joint] == mjtJoint.mjJNT_FREE:
        return ["_x", "_y", "_z", "_qw", "_qx", "_qy", "_qz"], ["_x", "_y", "_z", "_rx", "_ry", "_rz"]
    if model.jnt_type[joint] == mjtJoint.mjJNT_BALL:
        return ["_qw", "_qx", "_qy", "_qz"], ["_rx", "_ry", "_rz"]
    return [""], [""]


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def unlimited_hinges(model: "mujoco.MjModel") -> list[int]:
    """Indices in qpos of hinges that can turn all the way round."""
    from mujoco import mjtJoint

    hinges = (model.jnt_type == mjtJoint.mjJNT_HINGE) & (model.jnt_limited == 0)
    return model.jnt_qposadr[hinges].tolist()
