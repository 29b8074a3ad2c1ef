r"""What no demonstration of a process can tell about a reward.

Two rewards have the same (soft-)optimal policies for all temperatures, and the same relative values of all policies, if they
differ by :math:`\delta(s, a) = \Phi(s) - \gamma \sum_{s'} P_{s a s'} \Phi(s')`, potential shaping in expectation (Ng, Harada
and Russell 1999; Cao, Cohen and Szpruch 2021; Skalse et al. 2023). A direction w of linear rewards is of this kind if all
advantages that it gives vanish; with :math:`\phi_0 = \phi(\cdot, 0)` the features of one action,

.. math:: \phi(s, a)^\top w + \gamma \sum_{s'} P_{s a s'} V(s')^\top w = V(s)^\top w, \qquad
    V = (I - \gamma P_0)^{-1} \phi_0

in the states that are ever reached, and at each step alike where the horizon is finite. These are linear equations; the singular
values of their matrix say how strongly each direction shows in behavior, and its null space is what does not show at all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl.irl.base import by_action
from planners import TabularMDP


@dataclass(frozen=True, eq=False)
class Identifiability:
    """What behavior tells about a linear reward.

    Attributes:
        directions: orthonormal directions of weights ``(k, k)``, columns, the most visible first.
        visibility: root mean square advantage that a unit weight in each direction makes, ``(k,)``.
        invisible: number of directions that make none.
    """

    directions: Tensor
    visibility: Tensor
    invisible: int

    @property
    def null_directions(self) -> Tensor:
        """Directions that no policy depends on, ``(k, invisible)``."""
        return self.directions[:, self.directions.shape[1] - self.invisible :]

    def identified(self, weights: Tensor) -> Tensor:
        """Weights ``(*batch, k)`` without their part in the null directions."""
        null = self.null_directions
        return weights - (weights @ null) @ null.mT

    def __str__(self) -> str:
        k = len(self.visibility)
        return (
            f"{k - self.invisible} of {k} directions of the weights show in behavior, {self.invisible} do not (they are constant "
            "or potential shaping); a positive factor shows only in how random a demonstrator is, not in an optimal one"
        )


def identifiability(mdp: TabularMDP, features: Tensor) -> Identifiability:
    """Which directions of linear rewards show in behavior, given demonstrations without end from all first states.

    Args:
        mdp: the process; states that it cannot reach from its initial distribution tell nothing.
        features: of states ``(S, k)``, or of states and actions ``(S, A, k)``.

    Raises:
        ValueError: features have another shape.
    """
    phi = by_action(mdp, features).movedim(-1, 0)  # (k, S, A), a batch of rewards
    rows = []
    if mdp.finite:
        V = phi.new_zeros(phi.shape[:2])
        reached = _reached_by_step(mdp)
        for t in reversed(range(mdp.steps)):
            Q = phi + mdp.discount * mdp.next_values(V)
            V = Q[..., 0]
            rows.append((Q[..., 1:] - V.unsqueeze(-1))[:, reached[t]].flatten(1))
    else:
        first = torch.zeros_like(phi[0])
        first[:, 0] = 1.0
        A = torch.eye(mdp.states, dtype=phi.dtype, device=phi.device) - mdp.discount * mdp.chain(first)
        V = torch.linalg.solve(A, phi[..., 0].mT).mT
        Q = phi + mdp.discount * mdp.next_values(V)
        reached = _reached(mdp, mdp.start > 0)
        rows.append((Q[..., 1:] - V.unsqueeze(-1))[:, reached].flatten(1))
    advantages = torch.cat(rows, dim=1).mT
    if not len(advantages):
        advantages = phi.new_zeros(1, len(phi))
    advantages = advantages / len(advantages) ** 0.5
    _, values, directions = torch.linalg.svd(advantages, full_matrices=True)
    visibility = torch.cat([values, values.new_zeros(len(phi) - len(values))])
    scale = max(float(phi.abs().max()), float(visibility.max()))
    rounding = 1e3 * torch.finfo(phi.dtype).eps * scale / (1 if mdp.finite else 1 - mdp.discount)
    return Identifiability(directions.mT, visibility, int((visibility <= rounding).sum()))


def _reached(mdp: TabularMDP, reached: Tensor) -> Tensor:
    """States that can ever be reached from some, ``(S,)``."""
    edges = mdp.transitions.detach().amax(1) > 0
    for _ in range(mdp.states):
        more = reached | edges[reached].any(0)
        if bool((more == reached).all()):
            break
        reached = more
    return reached


def _reached_by_step(mdp: TabularMDP) -> list[Tensor]:
    """States that can be reached after 0, ..., T-1 steps."""
    edges, found = mdp.transitions.detach().amax(1) > 0, [mdp.start > 0]
    for _ in range(mdp.steps - 1):
        found.append(edges[found[-1]].any(0))
    return found
