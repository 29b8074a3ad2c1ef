"""Physical parameters that are elements of a MuJoCo model."""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from dynamics.parameters import PhysicalParameter

if TYPE_CHECKING:
    import mujoco


@dataclass(frozen=True)
class ModelField:
    """Where a named parameter is found in a MuJoCo model; its nominal value is the model's.

    Attributes:
        field: a floating-point field of ``mujoco.MjModel``, for example ``"body_mass"``, ``"dof_damping"``,
            ``"geom_friction"``, ``"actuator_gear"``, or of its options, ``"opt.gravity"``.
        element: name or number of the body, joint, geom, site, tendon, actuator, ... that the field is asked of, a joint for
            ``dof_...`` and ``qpos...``; None for all of them.
        index: one entry of a value that is a vector, None for all of it.
        unit: SI unit.
        bounds: lower and upper bound.
        transform: how an optimizer sees the value, see :class:`~dynamics.PhysicalParameter`.
        description: one line.

    Only the named numbers change: a body with another mass keeps its inertia. Constants that MuJoCo derives from the
    model (``mj_setConst``) follow.
    """

    field: str
    element: str | int | None = None
    index: int | None = None
    unit: str = "1"
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    transform: Literal["identity", "log", "logit"] = "identity"
    description: str = ""

    def parameter(self, name: str, model: "mujoco.MjModel") -> PhysicalParameter:
        """The parameter with the model's value as nominal one, under the name ``name`` in messages.

        Raises:
            ValueError: the model has no such field, element or index.
        """
        nominal = torch.from_numpy(self.nominal(name, model))
        return PhysicalParameter(nominal, self.unit, self.bounds, self.transform, self.description)

    def nominal(self, name: str, model: "mujoco.MjModel") -> np.ndarray:
        """The value in the model, a copy."""
        return np.array(self._values(name, model)[self.location(name, model)])

    def _values(self, name: str, model: "mujoco.MjModel") -> np.ndarray:
        from mujoco.batch import MODEL_FIELDS

        owner, attribute = (model.opt, self.field[4:]) if self.field.startswith("opt.") else (model, self.field)
        values = np.asarray(getattr(owner, attribute, None))
        if self.field not in MODEL_FIELDS or values.dtype != np.float64:
            raise ValueError(
                f"parameter {name!r}: {self.field!r} is not a floating-point field that MuJoCo can vary between worlds; "
                "such are 'body_mass', 'dof_damping', 'geom_friction', 'actuator_gear', 'opt.gravity'"
            )
        if self.field in ("opt.timestep", "actuator_ctrlrange"):
            raise ValueError(f"parameter {name!r}: {self.field!r} is part of the system's definition and cannot vary")
        return values

    def location(self, name: str, model: "mujoco.MjModel") -> tuple:
        """The numpy index of the parameter in the field."""
        values = self._values(name, model)
        location: tuple = ()
        if self.element is not None:
            location += (_element(name, self.field, self.element, model),)
        if self.index is not None:
            location += (self.index,)
        try:
            values[location]
        except IndexError as error:
            raise ValueError(
                f"parameter {name!r}: element {self.element!r}, index {self.index} do not fit {self.field!r} of shape "
                f"{values.shape}: {error}"
            ) from error
        return location


def _element(name: str, field: str, element: str | int, model: "mujoco.MjModel") -> int | slice:
    """Row of a named element, or the rows of a joint's degrees of freedom."""
    if field.startswith("opt."):
        raise ValueError(f"parameter {name!r}: {field!r} belongs to no element; leave out element={element!r}")
    prefix = field.partition("_")[0]
    kind = {"jnt": "joint", "dof": "joint", "qpos0": "joint", "qpos": "joint", "eq": "equality"}.get(prefix, prefix)
    try:
        view = getattr(model, kind)(element)
    except (AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"parameter {name!r}: {field!r} has no element {element!r}: {error}") from error
    if prefix not in ("dof", "qpos0", "qpos"):
        return view.id
    address = model.jnt_dofadr[view.id] if prefix == "dof" else model.jnt_qposadr[view.id]
    width = len(view.damping) if prefix == "dof" else len(view.qpos0)
    return int(address) if width == 1 else slice(int(address), int(address) + width)
