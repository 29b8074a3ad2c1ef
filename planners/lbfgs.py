r"""L-BFGS within a box, for many functions at once.

The two-metric projection (Bertsekas 1982, "Projected Newton methods for optimization problems with simple constraints") with the
metric of L-BFGS (Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4): variables that a scaled gradient step would push through
their limit are bound, the others free,

.. math::
    \mathcal B = \{ i : z_i - \gamma g_i \notin (\underline z_i, \overline z_i) \}, \qquad
    d_{\mathcal F} = -H_{\mathcal F} \, g_{\mathcal F}, \qquad d_{\mathcal B} = -\gamma \, g_{\mathcal B}, \qquad
    z(\alpha) = P(z + \alpha d)

with H the inverse BFGS matrix of the free parts of the last pairs s = z' - z, y = g' - g (those with s'y > 0), gamma = s'y / y'y
of the newest, and P the projection. H g is what the two-loop recursion gives, computed in closed form (Byrd, Nocedal and Schnabel
1994, theorem 2.2), whose few matrix products take all pairs of all elements at once:

.. math:: H = \gamma I + \begin{pmatrix} S & \gamma Y \end{pmatrix}
    \begin{pmatrix} R^{-\top} (D + \gamma Y^\top Y) R^{-1} & -R^{-\top} \\ -R^{-1} & 0 \end{pmatrix}
    \begin{pmatrix} S^\top \\ \gamma Y^\top \end{pmatrix}, \qquad R_{ij} = s_i^\top y_j \; (i \le j), \quad
    D = \operatorname{diag} R

 Along the arc z(alpha) a step is sought that satisfies the weak Wolfe conditions, by the
bracketing of Lewis and Overton (2013, "Nonsmooth optimization via quasi-Newton methods", algorithm 2.6), which also makes
progress where J has kinks:

.. math:: J(z(\alpha)) \le J(z) + c_1 g^\top (z(\alpha) - z), \qquad
    \tfrac{d}{d\alpha} J(z(\alpha)) \ge c_2 \tfrac{d}{d\alpha} J(z(0))

or, where differences of J are rounding, the first one in terms of slopes (Hager and Zhang 2005, equation 4.1).

``torch.optim.LBFGS`` sees all elements of a batch as one function: one curvature model, one step length and one end for all, so
that each solution would depend on the others. Here each element has its own, and no element waits for another: in every
evaluation each one tries the next point of its own line search.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.descent import Box, Objective, Point, Progress, Rules, dot, select, wide
from planners.solution import Status

DECREASE = 1e-4
"""c_1, of sufficient decrease."""
CURVATURE = 0.9
"""c_2, of the slope at the end of a step."""
MAX_TRIALS = 20
"""Points that one line search tries."""
BOTTOMLESS = 1e10
"""A step so much longer than expected, along which the cost falls as steeply as at first: there is no bound below."""


def lbfgs(objective: Objective, start: Point, box: Box, rules: Rules, *, memory: int) -> Progress:
    """Minimize.

    An element whose line search finds no decrease forgets its pairs and tries the gradient; if that fails too it is stalled.

    Args:
        objective: what to minimize.
        start: the first point.
        box: limits.
        rules: when to end.
        memory: number of pairs (s, y) that are kept.
    """
    progress, point = Progress(start, box, rules), start
    pairs = Pairs.none(start.z, memory)
    line = _search(point, pairs, box, progress.active)
    while bool(progress.active.any()):
        z = point.z + wide(line.step) * line.direction
        trial = objective(box.project(z), progress.active)
        line, accepted = line.judged(point, trial, box.inside(z), progress.slack)
        accepted, exhausted = accepted & progress.active, ~accepted & (line.trials >= MAX_TRIALS) & progress.active
        settled = exhausted & (line.low_step > 0)  # it is lower there, if still steep
        new = select(accepted, trial, select(settled, line.low, point))
        failed = exhausted & ~settled
        progress.end(settled & line.high_step.isinf() & (line.low_step > BOTTOMLESS), Status.NOT_CONVEX)
        fresh = ~pairs.known
        progress.stepped(new, accepted | settled)
        progress.end(failed & fresh, Status.STALLED)
        pairs = pairs.without(failed).joined(new.z - point.z, new.gradient - point.gradient, rules.epsilon)
        point = new
        if progress.is_over():
            break
        renewed = accepted | exhausted
        if bool(renewed.any()):
            line = select(renewed, _search(point, pairs, box, progress.active), line)
    return progress


@dataclass(frozen=True, eq=False)
class Pairs:
    """What L-BFGS remembers of its last steps, with variables flattened, N = K m.

    Attributes:
        s: differences of variables ``(*batch, memory, N)``, the newest last, each of length 1; zero where there is none.
        y: differences of gradients, in units of the length of s, likewise.
    """

    s: Tensor
    y: Tensor

    @staticmethod
    def none(like: Tensor, memory: int) -> "Pairs":
        """No memory of variables ``(*batch, K, m)``."""
        *batch, K, m = like.shape
        zero = like.new_zeros(*batch, memory, K * m)
        return Pairs(zero, zero)

    @property
    def known(self) -> Tensor:
        """Whether there is any pair, ``(*batch,)``."""
        return (self.s[..., -1, :] != 0).any(-1)

    def without(self, where: Tensor) -> "Pairs":
        """The pairs, forgotten by the elements ``where``."""
        return Pairs(self.s.masked_fill(wide(where), 0.0), self.y.masked_fill(wide(where), 0.0))

    def joined(self, s: Tensor, y: Tensor, epsilon: float) -> "Pairs":
        """The pairs and a new one ``(*batch, K, m)``, where its curvature is positive; the oldest one is dropped."""
        s, y = s.flatten(-2).unsqueeze(-2), y.flatten(-2).unsqueeze(-2)
        length, steepness = (torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (s, y))
        curved = (s * y).sum(-1, keepdim=True) > 10.0 * epsilon * length * steepness
        length = torch.where(curved, length, 1.0)
        news, newy = (torch.cat([old[..., 1:, :], new / length], dim=-2) for old, new in ((self.s, s), (self.y, y)))
        return Pairs(torch.where(curved, news, self.s), torch.where(curved, newy, self.y))

    def scale(self, default: Tensor) -> Tensor:
        """Gamma = s'y / y'y of the newest pair, or the default where there is none; ``(*batch,)``."""
        s, y = self.s[..., -1, :], self.y[..., -1, :]
        known = self.known
        return torch.where(known, (s * y).sum(-1) / torch.where(known, y.square().sum(-1), 1.0), default)

    def times(self, g: Tensor, free: Tensor, default: Tensor) -> Tensor:
        """H g on the free variables, ``(*batch, K, m)``; the default times g where there is no pair."""
        shape, mask = g.shape, free.flatten(-2).to(g)
        s, y = self.s * mask.unsqueeze(-2), self.y * mask.unsqueeze(-2)
        g = (g.flatten(-2) * mask).unsqueeze(-1)
        sy, yy = s @ y.mT, y @ y.mT
        d, d_yy = (v.diagonal(dim1=-2, dim2=-1) for v in (sy, yy))
        curved = d > 10.0 * torch.finfo(d.dtype).eps * (s.square().sum(-1) * d_yy).detach().sqrt()
        last = curved[..., -1]
        gamma = wide(torch.where(last, d[..., -1] / torch.where(last, d_yy[..., -1], 1.0), self.scale(default)))
        s, y = s * curved.unsqueeze(-1), y * curved.unsqueeze(-1)
        D = torch.diag_embed(d * curved)
        R = torch.triu(s @ y.mT, diagonal=1) + torch.diag_embed(torch.where(curved, d, 1.0))
        a = torch.linalg.solve_triangular(R, s @ g, upper=True)
        b = torch.linalg.solve_triangular(R.mT, (D + gamma * (y @ y.mT)) @ a - gamma * (y @ g), upper=False)
        return (gamma * g + s.mT @ b - gamma * (y.mT @ a)).squeeze(-1).reshape(shape)


@dataclass(frozen=True, eq=False)
class Line:
    """One line search of each element.

    The step that is sought lies between ``low_step``, where J is low enough but still steep, and ``high_step``, where it is too
    high or not finite.

    Attributes:
        direction: d, ``(*batch, K, m)``.
        slope: of J along the arc at its beginning, ``(*batch,)``; negative.
        step: alpha to try next, ``(*batch,)``.
        low: the point at low_step.
        low_step: ``(*batch,)``; 0 at first.
        low_slope: slope there, ``(*batch,)``.
        high_step: ``(*batch,)``; infinite at first.
        high_cost: J there, ``(*batch,)``.
        high_slope: slope there, ``(*batch,)``.
        trials: points tried, ``(*batch,)``.
    """

    direction: Tensor
    slope: Tensor
    step: Tensor
    low: Point
    low_step: Tensor
    low_slope: Tensor
    high_step: Tensor
    high_cost: Tensor
    high_slope: Tensor
    trials: Tensor

    def judged(self, point: Point, trial: Point, inside: Tensor, slack: Tensor) -> tuple["Line", Tensor]:
        """The search after a trial, and whether the trial is what was sought, ``(*batch,)``.

        Args:
            point: where the search began.
            trial: the point at ``step``.
            inside: which variables the projection left alone there, ``(*batch, K, m)``.
            slack: differences of J that are rounding, ``(*batch,)``.
        """
        slope = dot(trial.gradient, self.direction * inside)
        promised = dot(point.gradient, trial.z - point.z)
        decreased = (promised < 0) & (trial.cost <= point.cost + DECREASE * promised)
        rounded = (trial.cost <= point.cost + slack) & (slope <= (2.0 * DECREASE - 1.0) * self.slope)
        enough = trial.finite & (decreased | rounded)
        flat = slope >= CURVATURE * self.slope
        line = self._narrowed(trial, slope, enough)
        return replace(line, trials=self.trials + 1), enough & flat

    def _narrowed(self, trial: Point, slope: Tensor, enough: Tensor) -> "Line":
        """The bracket with the trial as its new end, and the next step to try."""
        stretched = _extrapolated(self.low_step, self.low_slope, self.step, slope)
        line = replace(
            self,
            low=select(enough, trial, self.low),
            low_step=torch.where(enough, self.step, self.low_step),
            low_slope=torch.where(enough, slope, self.low_slope),
            high_step=torch.where(enough, self.high_step, self.step),
            high_cost=torch.where(enough, self.high_cost, trial.cost),
            high_slope=torch.where(enough, self.high_slope, slope.masked_fill(~trial.finite, 0.0)),
        )
        return replace(line, step=torch.where(line.high_step.isfinite(), line._interpolated(), stretched))

    def _interpolated(self) -> Tensor:
        """A step within the bracket: where the slope would vanish, by two slopes or by a slope and two costs."""
        bracketed = self.high_step.isfinite()
        width = torch.where(bracketed, self.high_step, self.low_step) - self.low_step
        by_slopes = bracketed & (self.high_slope > 0)
        share = -self.low_slope / torch.where(by_slopes, self.high_slope - self.low_slope, 1.0)
        excess = self.high_cost - self.low.cost - self.low_slope * width
        by_costs = bracketed & ~by_slopes & excess.isfinite() & (excess > 0)
        other = -0.5 * self.low_slope * width / torch.where(by_costs, excess, 1.0)
        share = torch.where(by_slopes, share, torch.where(by_costs, other, 0.1))
        return self.low_step + share.clamp(0.1, 0.9) * width


def _extrapolated(low: Tensor, low_slope: Tensor, step: Tensor, slope: Tensor) -> Tensor:
    """A longer step: where the slope would vanish, 1.5 to 10 times as long as the present one."""
    bent = slope > low_slope
    share = slope / torch.where(bent, slope - low_slope, 1.0)  # negative: still downhill
    root = step - share * (step - low)
    return torch.where(bent, torch.minimum(torch.maximum(root, 1.5 * step), 10.0 * step), 10.0 * step)


def _search(point: Point, pairs: Pairs, box: Box, active: Tensor) -> Line:
    """New line searches from a point; along nothing for elements that are not active."""
    g, reduced = point.gradient, box.projected(point)
    default = 1.0 / torch.linalg.vector_norm(reduced, dim=(-2, -1)).clamp_min(torch.finfo(g.dtype).tiny ** 0.5)
    scale = wide(pairs.scale(default))
    ahead = point.z - scale * g
    free = ~(((ahead <= box.lower) & (g > 0)) | ((ahead >= box.upper) & (g < 0)))
    d = torch.where(free, -pairs.times(g, free, default), -scale * g)
    d = d.masked_fill(((point.z <= box.lower) & (d < 0)) | ((point.z >= box.upper) & (d > 0)), 0.0)
    slope = dot(g, d)
    d = torch.where(wide(slope < 0), d, -wide(default) * reduced).masked_fill(~wide(active), 0.0)
    slope, one, zero = dot(g, d), torch.ones_like(point.cost), torch.zeros_like(point.cost)
    infinite, none = torch.full_like(zero, torch.inf), torch.zeros_like(zero, dtype=torch.long)
    return Line(d, slope, one, point, zero, slope, infinite, infinite, zero, none)
