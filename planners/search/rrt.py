r"""Kinodynamic rapidly exploring random trees (LaValle and Kuffner 2001).

A plan from x0 into a goal region that keeps limits and obstacles; nothing is minimized:

.. math::
    \text{find } T, u_{0:T-1} \quad \text{s.t.} \quad x_{t+1} = f(x_t, u_t, t), \quad \underline u \le u_t \le \overline u, \quad
    g(x_t, u_t, t) \le 0, \quad |x_T \ominus x_g| \le \epsilon

The nodes of a tree are states, the root is x0. An iteration draws a state (the goal itself now and then), finds the nearest node,
holds random controls there for random numbers of steps, and adds the end that comes closest to the drawn state among those
without a collision (the paper's figure 4, EXTEND, with NEW_STATE by sampling). Because large unexplored regions are the most
likely to be drawn, and their border is nearest to them, the tree spreads out quickly.

It differs from the paper in that an iteration extends several nodes at once, in one batched rollout, and in that every state on
the way of a tried control is tested for being at the goal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from planners.control_set import ControlSet
from planners.problem import Limits, Problem
from planners.sampling.base import is_count
from planners.search.search_space import TreeSpace, tree_space
from planners.search.tree import Tree
from planners.solution import Solution, Status, finished
from planners.solve import Planner, Request

STAY_CONTROLS = 64  # tried at each step that is left after the goal
BRANCHES = 16  # tried one after the other until one can be completed


@dataclass(frozen=True, eq=False)
class RRT(Planner):
    """A rapidly exploring random tree in the state space of any dynamics; on stochastic ones, of their mean.

    It takes problems with obstacles that no local optimizer finds its way around, and its plan is where a trajectory optimizer
    can start: ``solve(problem, optimizer, x0, init=solve(problem, RRT(), x0))``. The cost of the problem is reported and not
    minimized. Each problem of a batch has a tree of its own. Constraints hold at every step, those of the state alone at the last
    state too, but not between steps: obstacles must be thicker than a step is long.

    With a finite horizon T no branch is longer, and the plan has T steps: after the goal is reached it stays as near as a
    greedy choice of controls can, within the constraints. With ``horizon=math.inf`` it has the length that was found (of the
    longest plan of a batch; the others stay). A solve that finds no way returns the branch that ends closest to the goal with
    the status ``ITERATION_LIMIT``. A previous solution (``init=``) is part of the tree from the start as far as it is
    possible.

    Beside the usual counts, ``stats`` holds ``nodes`` of all trees, ``steps`` until the plan is closest to the goal, and the
    ``goal_distance`` there in the metric of the search; of a batch, the largest.

    Attributes:
        goal: the state to reach ``(n,)``; None for the goal of the problem's cost.
        goal_tolerance: how far each component may be from the goal, in its own unit: a number or ``(tangent_dim,)``; infinite
            for components that do not matter.
        region: (lower, upper) bound of the states that are drawn, each a number or ``(n,)``; tangent vectors at the goal where
            states lie on a manifold. None for the box about x0 and goal, widened on each side by its longest side (the whole
            circle for angles), and as much of what lies beyond it as the tree has reached; a region of your own is faster.
        weights: of the squared components in the distance of two states, a number or ``(tangent_dim,)``; None counts each
            component in half the width of the region.
        goal_bias: probability that the goal is drawn.
        num_controls: controls that are tried per extension.
        max_steps: a control is held for 1 to this number of steps.
        num_extensions: nodes that an iteration extends at once.
        max_iterations: iterations after which the search gives up.

    Raises:
        ValueError: a field is out of range.
    """

    supports: ClassVar[frozenset[str]] = frozenset(
        {
            "control_limits",
            "control_values",
            "constraints",
            "terminal_constraints",
            "soft constraints",
            "discount",
            "terminal_value",
            "infinite horizon",
        }
    )

    goal: Tensor | Sequence[float] | None = None
    goal_tolerance: float | Tensor | Sequence[float] = 0.1
    region: Limits | None = None
    weights: float | Tensor | Sequence[float] | None = None
    goal_bias: float = 0.1
    num_controls: int = 16
    max_steps: int = 10
    num_extensions: int = 16
    max_iterations: int = 500

    def __eq__(self, other: object) -> bool:
        """Whether it is the same object: fields may be tensors, and the base compares none."""
        return self is other

    def __hash__(self) -> int:
        """Of the object, as equality is."""
        return object.__hash__(self)

    def __post_init__(self):
        for name in ("num_controls", "max_steps", "num_extensions", "max_iterations"):
            value = getattr(self, name)
            if not (is_count(value) and value >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if not 0.0 <= self.goal_bias <= 1.0:
            raise ValueError(f"goal_bias must be a probability, got {self.goal_bias}")
        for name, needed in (("goal_tolerance", "positive"), ("weights", "not negative and not all zero")):
            value = getattr(self, name)
            if value is None:
                continue
            value = torch.as_tensor(value)
            good = bool((value > 0).all()) if name == "goal_tolerance" else bool((value >= 0).all() & (value > 0).any())
            if value.ndim > 1 or not value.numel() or not good:
                raise ValueError(f"{name} must be a number or one for each component, {needed}, got {value.tolist()}")
        if self.goal is not None:
            goal = torch.as_tensor(self.goal)
            if goal.ndim != 1 or not bool(goal.isfinite().all()):
                raise ValueError(f"goal must be one finite state of shape (n,), got {goal.tolist()}")
        if self.region is not None:
            self._check_region(self.region)

    def _check_region(self, region: Any) -> None:
        try:
            lower, upper = (torch.as_tensor(bound, dtype=torch.float64) for bound in region)
            ordered = bool((lower <= upper).all() & (upper - lower).isfinite().all())
        except (TypeError, ValueError, RuntimeError):
            ordered = False
        if not ordered:
            raise ValueError(f"region must be (lower, upper), finite, with lower <= upper everywhere, got {region}")

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless goal, region and controls fit the problem and its constraints are inequalities."""
        dynamics, limits = problem.dynamics, problem.control_limits
        if problem.control_values is None and not (
            limits is not None and all(bool(torch.as_tensor(limit).isfinite().all()) for limit in limits)
        ):
            raise ValueError(f"RRT draws its controls between finite control_limits, got {limits}")
        self._goal(problem)
        vectors = {"goal_tolerance": self.goal_tolerance, "weights": self.weights}
        if self.region is not None:
            vectors |= {"the lower bound of region": self.region[0], "the upper bound of region": self.region[1]}
        for name, value in vectors.items():
            shape = () if value is None else tuple(torch.as_tensor(value).shape)
            if shape not in ((), (1,), (dynamics.tangent_dim,)):
                raise ValueError(f"{name} must be a number or have shape ({dynamics.tangent_dim},), got {shape}")
        equalities = [c.name for c in problem.all_constraints if c.equality and c.soft is None]
        if equalities:
            raise ValueError(
                f"RRT cannot honor equality constraints, which random controls never keep exactly, got {', '.join(equalities)}; "
                "write them as inequalities with a tolerance"
            )

    def _goal(self, problem: Problem) -> Tensor:
        """The goal ``(n,)`` of the planner, or of the problem's cost."""
        n = problem.dynamics.state_dim
        goal = self.goal if self.goal is not None else getattr(problem.cost, "goal", None)
        if goal is None:
            raise ValueError(
                f"RRT needs a state to reach, and {type(problem.cost).__name__} has no goal: RRT(goal=...)"
            )
        goal = torch.as_tensor(goal)
        goal = goal if goal.is_floating_point() else goal.double()
        if goal.ndim > 1 or goal.shape[-1:] not in ((), (n,)):
            raise ValueError(
                f"RRT needs one state of shape ({n},) to reach, got a goal of {tuple(goal.shape)}: RRT(goal=...)"
            )
        return goal.detach().expand(n)

    @torch.no_grad()
    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Grow the trees; called through ``solve``."""
        x0 = x0.detach()
        generator = request.generator or torch.Generator(x0.device).manual_seed(0)
        space = tree_space(problem, x0, request.t0, self, self._goal(problem))
        # drawn first, so that how long the search takes for one problem does not change the others' plans
        stay = space.shares((STAY_CONTROLS,), generator)
        start = _previous_controls(space, x0, request)
        H = min(self.max_steps, space.last)
        tree = Tree.empty(x0, 1 + self.num_extensions, (H, problem.dynamics.control_dim))
        _plant(space, tree, x0)
        if start is not None:
            _graft(space, tree, start, H)
        stats = {"iterations": 0, "evaluations": 0, "nonfinite": 0}
        ended = Status.ITERATION_LIMIT
        while stats["iterations"] < self.max_iterations and not bool(_is_done(tree).all()):
            self._extend(space, tree, generator, stats)
            stats["iterations"] += 1
            if request.out_of_time():
                ended = Status.TIME_LIMIT if stats["iterations"] < self.max_iterations else ended
                break
        stats["nodes"] = int(tree.present("alive").sum())
        return _finish(space, tree, x0, stay, ended, stats)

    def _extend(self, space: TreeSpace, tree: Tree, generator: torch.Generator, stats: dict[str, int]) -> None:
        """Add one node for each of several drawn states."""
        S, K, H = self.num_extensions, self.num_controls, tree.controls.shape[-2]
        batch, device = tree.depth.shape[:-1], tree.depth.device
        if self.region is None:
            space = space.including(tree.present("states"), tree.present("alive"))
        drawn = space.samples(S, self.goal_bias, generator)
        shares = space.shares((*batch, S, K), generator)
        duration = torch.randint(1, H + 1, (*batch, S, K), generator=generator, device=device)
        near = self._nearest(space, tree, drawn)
        x, depth = _at(tree.present("states"), near), tree.present("depth").gather(-1, near)
        us = space.controls(shares, depth.unsqueeze(-1) + torch.arange(H, device=device))
        xs, free = _tried(space, x, us, depth)
        stats["evaluations"] += shares.shape[:-1].numel()
        stats["nonfinite"] += int((~xs[..., -1, :].isfinite().all(-1)).sum())
        best, end, alive, reached = _chosen(space, xs, free, duration, depth, drawn)
        alive &= tree.present("alive").gather(-1, near)
        states, last = _at(_pick(xs, best), end).squeeze(-2), end.squeeze(-1)
        _add(space, tree, states, depth + last + 1, near, _pick(us, best), last + 1, alive, reached)

    def _nearest(self, space: TreeSpace, tree: Tree, drawn: Tensor) -> Tensor:
        """Indices ``(*batch, S)`` of the nodes nearest to states ``(*batch, S, n)``, of those that may be extended."""
        usable = tree.present("alive") & (tree.present("depth") < space.last)
        distance = space.distance(tree.present("states").unsqueeze(-3), drawn.unsqueeze(-2))
        return distance.masked_fill(~usable.unsqueeze(-2), math.inf).argmin(-1)


def _tried(space: TreeSpace, x: Tensor, us: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """States ``(*batch, S, K, H, n)`` under tried controls, and up to which of them nothing is in the way.

    Args:
        space: the space.
        x: nodes ``(*batch, S, n)``.
        us: controls ``(*batch, S, K, H, m)``.
        depth: of the nodes ``(*batch, S)``.
    """
    start = x.unsqueeze(-2).expand(*us.shape[:-2], -1)
    xs = space.rollout(start, us, depth.unsqueeze(-1))
    before = torch.cat([start.unsqueeze(-2), xs[..., :-1, :]], dim=-2)
    depths = depth[..., None, None] + torch.arange(us.shape[-2], device=us.device)
    return xs, _until_the_first_false(space.free(before, us, xs, depths) & (depths < space.last))


def _chosen(
    space: TreeSpace, xs: Tensor, free: Tensor, duration: Tensor, depth: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which control to take and up to which step, ``(*batch, S, 1)``, whether there is one, and whether it leads to the goal.

    Where one leads to the goal, the one that is there first; elsewhere the one whose end comes closest to the drawn state.
    """
    steps, H = torch.arange(xs.shape[-2], device=xs.device), xs.shape[-2]
    first, at = torch.where(free & space.at_goal(xs), steps, H).min(-1)
    end = torch.minimum(duration, (space.last - depth).unsqueeze(-1)).clamp_min(1) - 1
    possible = free.gather(-1, end.unsqueeze(-1)).squeeze(-1)
    distance = space.distance(_at(xs, end.unsqueeze(-1)).squeeze(-2), drawn.unsqueeze(-2))
    distance = torch.where(possible & distance.isfinite(), distance, math.inf)
    reached = (first < H).any(-1)
    best = torch.where(reached, first.argmin(-1), distance.argmin(-1)).unsqueeze(-1)
    end = torch.where(first < H, at, end).gather(-1, best)
    return best, end, reached | distance.gather(-1, best).squeeze(-1).isfinite(), reached


def _at(sequence: Tensor, index: Tensor) -> Tensor:
    """Rows ``(..., S, n)`` of ``(..., N, n)`` at indices ``(..., S)``."""
    return sequence.gather(-2, index.unsqueeze(-1).expand(*index.shape, sequence.shape[-1]))


def _pick(candidates: Tensor, best: Tensor) -> Tensor:
    """One sequence ``(..., H, n)`` of candidates ``(..., K, H, n)`` by indices ``(..., 1)``."""
    index = best[..., None, None].expand(*best.shape, *candidates.shape[-2:])
    return candidates.gather(-3, index).squeeze(-3)


def _add(
    space: TreeSpace,
    tree: Tree,
    states: Tensor,
    depth: Tensor,
    parent: Tensor,
    controls: Tensor,
    steps: Tensor,
    alive: Tensor,
    reached: Tensor,
) -> None:
    distance = space.distance(states, space.goal).masked_fill(~alive, math.inf)
    tree.add(
        states=states,
        distance=distance.nan_to_num(nan=math.inf, posinf=math.inf),
        depth=depth,
        parent=parent,
        steps=steps,
        controls=controls,
        alive=alive,
        reached=reached & alive,
    )


def _plant(space: TreeSpace, tree: Tree, x0: Tensor) -> None:
    """The root of each tree."""
    states = x0.unsqueeze(-2)
    zero = torch.zeros_like(tree.depth[..., :1])
    controls = torch.zeros_like(tree.controls[..., :1, :, :])
    alive = states.isfinite().all(-1)
    _add(space, tree, states, zero, zero - 1, controls, zero, alive, space.at_goal(states))


def _previous_controls(space: TreeSpace, x0: Tensor, request: Request) -> Tensor | None:
    """What is left of a previous plan as allowed controls ``(*batch, L, m)``, at most one horizon; None without one."""
    if request.init is None:
        return None
    previous, dt = request.init, space.problem.dynamics.dt
    end = previous.time + previous.us.shape[-2] * previous.problem.dynamics.dt
    length = min(max(round((end - request.time) / dt), 1), space.last)
    us = previous.controls_at(request.time + dt * torch.arange(length, dtype=torch.float64)).to(x0)
    shape = (*x0.shape[:-1], length, space.problem.dynamics.control_dim)
    if us.shape[-1:] != shape[-1:]:  # one control would broadcast to all
        raise ValueError(f"init has {us.shape[-1]} controls, the problem {shape[-1]}")
    lower, upper = (limit if limit.shape[-2] == 1 else limit[..., :length, :] for limit in space.limits)
    values = space.problem.control_values
    controls = ControlSet(lower.expand(shape), upper.expand(shape), None if values is None else values.to(x0))
    return controls.admissible(us.expand(shape))


def _graft(space: TreeSpace, tree: Tree, us: Tensor, H: int) -> None:
    """Make a plan ``(*batch, L, m)`` a branch of the tree, one node every H steps, up to the goal or the first collision."""
    batch, m = us.shape[:-2], us.shape[-1]
    goes_on = tree.alive[..., :1]
    for start in range(0, us.shape[-2], H):
        node, part = tree.size - 1, us[..., start : start + H, :]
        x, length = tree.states[..., node, :], part.shape[-2]
        depth, steps = torch.full((*batch, 1), start, device=us.device), torch.arange(length, device=us.device)
        xs = space.rollout(x, part, depth.squeeze(-1))
        before = torch.cat([x.unsqueeze(-2), xs[..., :-1, :]], dim=-2)
        free = _until_the_first_false(space.free(before, part, xs, depth + steps))
        first = torch.where(free & space.at_goal(xs), steps, length).amin(
            -1, keepdim=True
        )  # the first step at the goal
        end = first.clamp_max(length - 1)
        alive = goes_on & free.gather(-1, end)
        controls = us.new_zeros(*batch, 1, H, m)
        controls[..., 0, :length, :] = part
        parent = torch.full_like(depth, node if start else 0)
        _add(space, tree, _at(xs, end), depth + end + 1, parent, controls, end + 1, alive, first < length)
        goes_on = alive & (first == length)


def _finish(space: TreeSpace, tree: Tree, x0: Tensor, stay: Tensor, ended: Status, stats: dict[str, Any]) -> Solution:
    """The shortest branch to the goal, or the one that ends closest to it, completed to the horizon."""
    problem, depth, reached = space.problem, tree.present("depth"), tree.present("reached")
    rank = torch.where(reached, -1.0 / (1 + depth).to(x0), tree.present("distance"))
    order = rank.topk(min(BRANCHES, tree.size), largest=False).indices
    choice = order[..., :1]
    for following in [*order.split(1, dim=-1)[1:], None]:
        lengths = depth.gather(-1, choice).squeeze(-1)
        us = _completed(space, _branches(tree, choice.squeeze(-1), lengths, problem.horizon), lengths, x0, stay)
        xs = problem.dynamics.rollout(x0, us, space.t0)
        violations = problem.violations(xs, us, t0=space.t0)
        infeasible = space.violated(violations, x0) & tree.alive[..., 0]
        if following is None or not bool(infeasible.any()):
            break
        choice = torch.where(infeasible.unsqueeze(-1), following, choice)
    closest = _at(xs, lengths.unsqueeze(-1)).squeeze(-2)
    status = torch.where(reached.gather(-1, choice).squeeze(-1), int(Status.CONVERGED), int(ended))
    status = status.masked_fill(infeasible, int(Status.INFEASIBLE))
    distance = space.distance(closest, space.goal).nan_to_num(nan=math.inf, posinf=math.inf)
    stats |= {"steps": int(_largest(lengths)), "goal_distance": float(_largest(distance))}
    cost = problem.trajectory_cost(xs, us, t0=space.t0).masked_fill(infeasible, math.inf)
    return finished(problem, xs, us, cost, status, t0=space.t0, stats=stats, violations=violations)


def _branches(tree: Tree, nodes: Tensor, lengths: Tensor, horizon: int | float) -> Tensor:
    """Controls ``(*batch, T, m)`` up to nodes ``(*batch,)``, zero after them; T is at least one step."""
    longest = int(lengths.max()) if lengths.numel() else 0
    T = max(longest, 1) if horizon == math.inf else int(horizon)
    flat = tree.states.new_zeros(nodes.numel(), T, tree.controls.shape[-1])
    for element, node in enumerate(nodes.flatten().tolist()):
        branch = tree.branch(element, node)
        flat[element, : len(branch)] = branch
    return flat.reshape(*nodes.shape, *flat.shape[1:])


def _completed(space: TreeSpace, us: Tensor, lengths: Tensor, x0: Tensor, stay: Tensor) -> Tensor:
    """Controls ``(*batch, T, m)`` whose steps from ``lengths`` on stay as close to the goal as the next step can."""
    batch, T = us.shape[:-2], us.shape[-2]
    if not lengths.numel() or int(lengths.min()) >= T:
        return us
    x, chosen = x0, []
    for k in range(T):
        depth = torch.full((*batch, 1, 1), k, device=us.device)
        shares = stay.expand(*batch, 1, *stay.shape)
        tried = space.controls(shares, depth)[..., 0, :, 0, :]
        own = torch.where((lengths > k)[..., None, None], us[..., k : k + 1, :], space.resting(depth)[..., 0, :])
        tried = torch.cat([own, tried], dim=-2)
        start = x.unsqueeze(-2).expand(*tried.shape[:-1], -1)
        x_next = space.problem.dynamics(start, tried, space.t0 + k)
        free = space.free(start, tried, x_next, depth.squeeze(-1).expand(tried.shape[:-1]))
        distance = space.distance(x_next, space.goal).masked_fill(~free, math.inf).nan_to_num(nan=math.inf)
        best = torch.where(lengths > k, 0, distance.argmin(-1)).unsqueeze(-1)
        chosen.append(_at(tried, best).squeeze(-2))
        x = _at(x_next, best).squeeze(-2)
    return torch.stack(chosen, dim=-2)


def _until_the_first_false(flags: Tensor) -> Tensor:
    """Whether a flag and all before it are true, along the last axis."""
    return flags.to(torch.uint8).cumprod(-1) > 0


def _largest(values: Tensor) -> float:
    return values.max().item() if values.numel() else 0


def _is_done(tree: Tree) -> Tensor:
    """Whether the goal is reached, or nothing can be: the root itself is not finite or in an obstacle; ``(*batch,)``."""
    return tree.present("reached").any(-1) | ~tree.alive[..., 0]
